"""`apf private gradient | apply | alone | show`: the device's commands. They need neither torch nor a queue."""

from __future__ import annotations

import argparse
import errno
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from apf.errors import ApfError, PathError
from apf.photo import Limits
from apf.private import folders
from apf.private.device import Device
from apf.private.files import Gradients, decode
from apf.private.folders import Found, PhotoOutcome, Source
from apf.private.key import default_path, load_key
from apf.recipe import DEFAULT_RECIPE, load_recipe

#: Where no file leaves the device, none is named.
NO_KEY = b""
DONE, SOME_FAILED, COULD_NOT_RUN, INTERRUPTED = 0, 1, 2, 130

DESCRIPTION = """Private mode: photos never leave this device. `gradient` writes a small file for each photo, without a
pixel of it; a queue (`apf protect --private`) answers each with a perturbation; `apply` puts that on the photo here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 all done, 1 some photos failed, 2 it could not run."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except (ApfError, OSError) as error:
        print(f"apf: {error}", file=sys.stderr)
        return COULD_NOT_RUN
    except KeyboardInterrupt:
        print("apf: interrupted; what is written is whole: run it again for the rest", file=sys.stderr)
        return INTERRUPTED
    return status


def _gradient(options: argparse.Namespace) -> int:
    device = _device(options, create=True)
    found, folder, started = folders.photos_in(options.photos, options.exclude), Path(options.output), time.time()
    if options.names:
        folders.check_distinct(found.sources)
    folders.check_writable(folder)
    return _each(
        found, lambda one: folders.write_gradients(one, folder, device, names=options.names, stamp=started), options
    )


def _apply(options: argparse.Namespace) -> int:
    if not options.perturbation.exists():
        raise PathError(f"{options.perturbation} is not there: name a perturbation file, or a folder of them")
    device = _device(options, create=False)
    return _published(
        options,
        lambda one, out: folders.apply_answer(
            one, options.perturbation, out, device, accept_weak=options.accept_weak, overwrite=options.overwrite
        ),
    )


def _alone(options: argparse.Namespace) -> int:
    device = Device(load_recipe(options.recipe), NO_KEY, limits=_limits(options))
    return _published(options, lambda one, out: folders.protect_alone(one, out, device, overwrite=options.overwrite))


def _published(options: argparse.Namespace, publish: Callable[[Source, Path], PhotoOutcome]) -> int:
    """Run what publishes photos, each to its own place."""
    found = folders.photos_in(options.photos, options.exclude)
    folders.check_distinct(found.sources)
    single = len(found.sources) == 1 and options.photos[0].is_file()
    out = Path(options.output)
    # A file for a single photo, unless a folder was given.
    to_folder = not single or out.is_dir() or options.output.endswith(("/", "\\"))
    places = {one: out / one.relative if to_folder else out for one in found.sources}
    folders.check_apart(options.photos, found.sources, list(places.values()), out if to_folder else None)
    folders.check_writable(out if to_folder else out.absolute().parent)

    def protect_one(one: Source) -> PhotoOutcome:
        if options.skip_existing and places[one].is_file():
            return PhotoOutcome(str(one.path), "skipped", written=places[one])
        return publish(one, places[one])

    return _each(found, protect_one, options)


def _show(options: argparse.Namespace) -> int:
    data = options.file.read_bytes()
    file = decode(data)
    terms = {"epsilon_levels": file.terms.epsilon_levels, "stages": file.terms.stages, "weights": file.terms.weights}
    facts: dict[str, object] = {"id": file.id, "faces": file.faces, "bytes": len(data), **terms}
    if isinstance(file, Gradients):
        facts |= {"bits": file.bits, "channels": file.packed.shape[1], "noise": file.noise, "name": file.name or None}
    print(json.dumps({"kind": type(file).__name__.lower(), **facts}, indent=1))
    return DONE


def _device(options: argparse.Namespace, *, create: bool) -> Device:
    key = load_key(options.key or default_path(), create=create)
    return Device(load_recipe(options.recipe), key, limits=_limits(options))


def _limits(options: argparse.Namespace) -> Limits:
    pixels = options.max_megapixels * 1_000_000
    # A photo has at most four channels of 16 bits, whatever its format.
    return Limits(8 * pixels, pixels, bytes_setting="--max-megapixels", pixels_setting="--max-megapixels")


def _each(found: Found, protect_one: Callable[[Source], PhotoOutcome], options: argparse.Namespace) -> int:
    results: list[PhotoOutcome] = []
    count = len(found.sources)
    for number, source in enumerate(found.sources, 1):
        try:
            if source.fault:
                raise PathError(source.fault)
            results.append(protect_one(source))
        except Exception as error:  # every photo must end with an outcome, and none stops the others
            reason = _reason(error)
            results.append(PhotoOutcome(str(source.path), "failed", reason=reason))
            if not options.json:
                print(f"apf: {source.path}: {reason}", file=sys.stderr)
        if sys.stderr.isatty():
            print(f"\r{number} of {count} photos", end="\n" if number == count else "", file=sys.stderr)
    counts = Counter(one.outcome for one in results) | Counter(ignored=found.ignored, excluded=found.excluded)
    print(json.dumps(_summary(results, counts)) if options.json else _sentence(results, counts, options.output))
    return SOME_FAILED if counts["failed"] else DONE


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"a part of its name is too long for this file system: rename the photo ({error.filename})"
    return str(error) if isinstance(error, ApfError | OSError) else f"unexpected {error!r}"


def _summary(results: Sequence[PhotoOutcome], counts: Counter[str]) -> dict[str, object]:
    photos = [
        {"photo": one.photo, "outcome": one.outcome, "faces": one.faces, "written": str(one.written or "") or None}
        | ({"reason": one.reason} if one.reason else {})
        for one in results
    ]
    outcomes = ("protected", "no_face", "skipped", "failed", "ignored", "excluded")
    return {"photos": len(results), **{name: counts[name] for name in outcomes}, "each": photos}


def _sentence(results: Sequence[PhotoOutcome], counts: Counter[str], output: str) -> str:
    parts = [f"{len(results)} photos", f"{sum(one.faces for one in results)} faces"]
    named = {"no_face": "without a face", "skipped": "there already", "failed": "failed", "ignored": "files ignored",
             "excluded": "of these excluded"}  # fmt: skip
    parts += [f"{counts[outcome]} {text}" for outcome, text in named.items() if counts[outcome]]
    return f"{', '.join(parts)}; written to {output}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="apf private", description=DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    gradient = commands.add_parser("gradient", help="write what the queue needs to see of photos")
    gradient.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="photos, or folders of them")
    gradient.add_argument("--names", action="store_true", help="let files be named after their photos, and say so")
    gradient.set_defaults(run=_gradient)

    apply = commands.add_parser("apply", help="put what the queue answered on photos")
    apply.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="photos, or folders of them")
    apply.add_argument("perturbation", type=Path, metavar="PERTURBATION", help="a perturbation file, or their folder")
    apply.add_argument("--accept-weak", action="store_true", help="also write photos that the answer hardly protects")
    apply.set_defaults(run=_apply)

    alone = commands.add_parser("alone", help="protect photos without any server, a little less well")
    alone.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="photos, or folders of them")
    alone.set_defaults(run=_alone)

    lies = str(default_path()).replace("%", "%%")  # argparse formats its texts
    for command in (gradient, apply):
        command.add_argument("--key", type=Path, help=f"the device's key (default {lies})")
    for command in (apply, alone):
        there = command.add_mutually_exclusive_group()
        there.add_argument("--skip-existing", action="store_true", help="leave photos that are there already")
        there.add_argument("--overwrite", action="store_true", help="replace other files that are there")
    for command in (gradient, apply, alone):
        command.add_argument("-o", "--output", required=True, help="where the results go")
        command.add_argument("--exclude", action="append", default=[], metavar="PATTERN",
                             help="leave out of folders what matches, as in .gitignore; may be repeated")  # fmt: skip
        command.add_argument("--max-megapixels", type=int, default=200, help="larger photos fail (default 200)")
        command.add_argument("--recipe", default=DEFAULT_RECIPE, help="fast, light, standard, strong, or a TOML file")
        command.add_argument("--json", action="store_true", help="print one JSON object")

    show = commands.add_parser("show", help="say what a file of private mode holds")
    show.add_argument("file", type=Path, metavar="FILE")
    show.set_defaults(run=_show)
    return parser


if __name__ == "__main__":
    sys.exit(main())
