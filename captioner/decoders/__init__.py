"""The networks that write captions, behind one interface: `start`, `step` and `forward`."""
