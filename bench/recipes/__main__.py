"""Compare training ideas: each tuned with an equal budget, then against the base on fresh seeds.

    python -m bench.recipes [quick|full] [FOLDER] [--nets REGEX] [--ideas REGEX] [--data mnist]
        [--write]

FOLDER, which is studies/recipes/ by default (of quick: studies/recipes-quick/), holds a file of
rows for each net, a line a training, so that the same command goes on where it stopped. Then the
folder's README.md and its picture are written from these rows; --write does nothing but that.
--ideas may name `together`, the ideas that help tuned jointly, and `recipe=strong`. Data is read
from $GOLF_DATA (default data/).
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from bench.recipes.ideas import BASE, IDEAS, PARTS
from bench.recipes.run import STRONG, Place, Subject
from bench.recipes.shown import STUDIES, write
from golf_opt.config.errors import UsageError
from golf_opt.utils.said import tell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS, nargs="?", default="quick")
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--nets", default="")
    parser.add_argument("--ideas", default="")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--write", action="store_true", help="only write the README again")
    options = parser.parse_args()
    part = PARTS[options.part]
    folder = options.folder or STUDIES.with_name(
        STUDIES.name if options.part == "full" else f"{STUDIES.name}-{options.part}"
    )
    ideas = [i for i in IDEAS if i.name == BASE or re.search(options.ideas, i.name)]
    place = Place(folder, options.data, os.environ.get("GOLF_DATA", "data"), tell)
    try:
        for name in [
            net for net in part.nets if re.search(options.nets, net) and not options.write
        ]:
            subject = Subject(name, part, place)
            if len(ideas) > 1:
                subject.compare(ideas)
            if re.search(options.ideas, "together"):
                subject.together(list(IDEAS))
            if subject.part.strong and re.search(options.ideas, STRONG):
                subject.strong()
    except UsageError as error:
        parser.exit(2, f"recipes: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "stopped; the same command goes on\n")
    write(folder, part, options.data)


if __name__ == "__main__":
    main()
