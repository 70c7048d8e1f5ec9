"""Write the embedded data set: pictures of shapes and five captions of each, as COCO captions.

    python data_prep/scenes.py data/scenes

writes data/scenes/images/*.png and data/scenes/captions_{train,val,test}.json: 3,000 pictures,
45 MB, half a minute. After an interruption, run it again to continue. The same seed gives the same
bytes. What pictures and captions show: captioner/scenes.
"""

import sys

from captioner import scenes
from captioner.console import Parser, report, say
from captioner.errors import InputError
from captioner.progress import progress


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns its exit code, 2 if the arguments or the folder are wrong."""
    parser = Parser(description="Write the embedded data set of coloured shapes.")
    parser.add_argument("folder", help="where to write; made if it does not exist")
    parser.add_argument("--train", type=int, default=2400, help="pictures (default: %(default)s)")
    parser.add_argument("--val", type=int, default=300, help="pictures (default: %(default)s)")
    parser.add_argument("--test", type=int, default=300, help="pictures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args(arguments)
    total = options.train + options.val + options.test
    try:
        with progress("scenes", total, "pictures") as update:
            scenes.write_scenes(**vars(options), progress=lambda *_: update(1))
    except InputError as error:
        return report(error)
    say(f"pictures: {options.folder}/images")
    say(f"captions: {options.folder}/captions_{{train,val,test}}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
