"""Each cell's equations, transcribed in NumPy from its paper."""

import numpy as np


def s(x):
    return 1 / (1 + np.exp(-x))


# DESIGN's table, letter by letter: X and R are W_xh and W_hh by block, b holds the image term too.


def rnn(X, R, b, x, h, f=np.tanh):
    return (f(x @ X["h"].T + h @ R["h"].T + b["h"]),)


def relu(X, R, b, x, h):
    return rnn(X, R, b, x, h, lambda a: np.maximum(a, 0))


def lstm(X, R, b, x, h, c):
    a = {k: x @ X[k].T + h @ R[k].T + b[k] for k in "ifog"}
    c = s(a["f"]) * c + s(a["i"]) * np.tanh(a["g"])
    return s(a["o"]) * np.tanh(c), c


def gru(X, R, b, x, h):
    r = s(x @ X["r"].T + h @ R["r"].T + b["r"])
    z = s(x @ X["z"].T + h @ R["z"].T + b["z"])
    n = np.tanh(x @ X["n"].T + (r * h) @ R["n"].T + b["n"])
    return (z * h + (1 - z) * n,)


def mut1(X, R, b, x, h):
    z = s(x @ X["z"].T + b["z"])
    r = s(x @ X["r"].T + h @ R["r"].T + b["r"])
    return (np.tanh((r * h) @ R["h"].T + np.tanh(x) + b["h"]) * z + h * (1 - z),)


def mut2(X, R, b, x, h):
    z = s(x @ X["z"].T + h @ R["z"].T + b["z"])
    r = s(x + h @ R["r"].T + b["r"])
    return (np.tanh((r * h) @ R["h"].T + x @ X["h"].T + b["h"]) * z + h * (1 - z),)


def mut3(X, R, b, x, h):
    z = s(x @ X["z"].T + np.tanh(h) @ R["z"].T + b["z"])
    r = s(x @ X["r"].T + h @ R["r"].T + b["r"])
    return (np.tanh((r * h) @ R["h"].T + x @ X["h"].T + b["h"]) * z + h * (1 - z),)


EQUATIONS = dict(zip(("RNN", "ReLU", "LSTM", "GRU", "MUT1", "MUT2", "MUT3"),
                     (rnn, relu, lstm, gru, mut1, mut2, mut3)))  # fmt: skip


def equation(cell, x, state, image):
    """One step of `cell` in NumPy: image is the term that is added to every pre-activation."""

    def blocks(names, rows):
        return dict(zip(names, np.split(rows.detach().numpy(), len(names))))

    recurrent = cell.blocks[-len(cell.W_hh) // cell.hidden_size :]
    image = np.split(np.broadcast_to(image, (len(x), len(cell.b))), len(cell.blocks), axis=1)
    b = {name: row + i for (name, row), i in zip(blocks(cell.blocks, cell.b).items(), image)}
    X, R = blocks(cell.reads, cell.W_xh), blocks(recurrent, cell.W_hh)
    return EQUATIONS[type(cell).__name__](X, R, b, x, *state)
