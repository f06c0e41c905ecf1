"""The command `thalweg`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from service import __version__
from service import settings as configuration
from service.settings import Settings, SettingsError
from service.stores.base import StoreError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0, or 2 for a wrong setting, or 3 where the service could not start."""
    options = vars(_parser().parse_args(arguments))
    del options["command"]
    try:
        settings = configuration.load(**{name: value for name, value in options.items() if value is not None})
    except SettingsError as error:
        print(f"thalweg: {error}", file=sys.stderr)
        return 2
    # BLAS is not used where bits matter, but its idle threads would fight for the processors
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    return _serve(settings)


def _serve(settings: Settings) -> int:
    # imported here: `thalweg --help` and wrong settings need not wait for them
    from service.main import create_app
    from service.server import serve

    try:
        app = create_app(settings)
    except (StoreError, OSError) as error:
        print(f"thalweg: {error}", file=sys.stderr)
        return 3
    return 0 if serve(app, settings) else 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("thalweg", description="An optimizer behind a URL.")
    parser.add_argument("--version", action="version", version=f"thalweg {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    serve = commands.add_parser("serve", help="run the service", description="Run the service until it is stopped.")
    for name, field in Settings.model_fields.items():
        serve.add_argument(
            f"--{name.replace('_', '-')}",
            default=None,
            metavar=name.upper(),
            help=f"{field.description} Default: {field.default}. Also {configuration.PREFIX}{name.upper()}.",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
