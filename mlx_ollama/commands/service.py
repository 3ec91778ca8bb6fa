"""`mlx-ollama service`: the server as a service of the platform, there after every login and every crash."""

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from mlx_ollama.autostart.launchd import Launchd
from mlx_ollama.autostart.plan import Plan
from mlx_ollama.autostart.systemd import Systemd
from mlx_ollama.commands.common import Commands, complain
from mlx_ollama.commands.serve import add_flags, given_flags
from mlx_ollama.settings import Loaded

NOT_INSTALLED = "the service is not installed; `mlx-ollama service install` does that"


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    service = commands.add_parser("service", help="install, start, stop and watch the server as a service")
    actions = service.add_subparsers(title="actions", metavar="ACTION", required=True)

    install = actions.add_parser("install", parents=[common], help="install the service and start it")
    add_flags(install)
    install.set_defaults(run=_install)
    _add(actions, "uninstall", "stop the service and remove it", lambda platform, _: platform.uninstall())
    _add(actions, "start", "start the service", lambda platform, _: platform.start())
    _add(actions, "stop", "stop the service until the next login or start", lambda platform, _: platform.stop())
    _add(actions, "status", "show how the service is", lambda platform, _: platform.status())
    logs = _add(actions, "logs", "show the last of its log", lambda platform, given: platform.logs(follow=given.follow))
    logs.add_argument("-f", "--follow", action="store_true", help="and what comes, until Ctrl-C")


def platform_of(name: str, home: Path) -> Launchd | Systemd:
    """What starts services on a platform (`sys.platform`), for the user with that home folder."""
    return Launchd(home) if name == "darwin" else Systemd(home)


def _add(
    actions: Commands, name: str, help_text: str, act: Callable[[Launchd | Systemd, argparse.Namespace], int]
) -> argparse.ArgumentParser:
    def run(arguments: argparse.Namespace, loaded: Loaded) -> int:
        platform = platform_of(sys.platform, Path.home())
        if not platform.path.exists():
            return complain(NOT_INSTALLED)
        return _told(act(platform, arguments))

    parser = actions.add_parser(name, help=help_text)
    parser.set_defaults(run=run)
    return parser


def _install(arguments: argparse.Namespace, loaded: Loaded) -> int:
    platform = platform_of(sys.platform, Path.home())
    if not shutil.which(platform.tool):
        return complain(f"there is no {platform.tool} here; `mlx-ollama supervise` needs nothing of the platform")
    # The platform's own come first: whoever names another log file gets that one.
    flags = {flag.partition("=")[0]: flag for flag in (*platform.flags(), *_places(loaded), *given_flags(arguments))}
    plan = Plan.of(sys.executable, [*flags.values()], loaded.settings)
    try:
        platform.write(plan)
    except ValueError as error:
        return complain(f"the service cannot be described: {error}", status=2)
    print(f"{platform.path} is written")
    if names := loaded.from_environment:
        file = loaded.file or loaded.settings.home / "config.toml"
        print(
            f"The service does not see what is set in this terminal: {', '.join(names)}. "
            f"What shall hold for it belongs into {file} (chmod 600 if there are keys in it).",
            file=sys.stderr,
        )
    if status := _told(platform.install(plan)):
        return status
    print(f"The service is installed and started. {platform.advice}")
    return 0


def _places(loaded: Loaded) -> list[str]:
    """Where home and settings are, if the environment says so: that much of it the service is told."""
    home, file = loaded.settings.home, loaded.file
    places = [f"--home={home}"] if loaded.origins["home"].source != "default" else []
    return places + ([f"--config={file}"] if file and file != home / "config.toml" else [])


def _told(status: int) -> int:
    """Statuses of the platform's commands as ours: a signal as a shell has it."""
    return 128 - status if status < 0 else status
