"""``linguabus``: the command line. Commands are imported when they are run, so that starting up is quick."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path

import click

from broker.config_file import ConfigFile, ConfiguredGroup, config_option
from broker.option_types import WholeRange
from orchestrator.commands.exits import FAILURE, INTERRUPTED, WRONG_INPUT, exit_code, missing_module
from orchestrator.commands.settings import HelpGroup, Settings, bus_options, pass_settings
from orchestrator.commands.terminal import settle_streams
from schemas import PACKAGE_VERSION
from schemas.errors import LinguabusError
from schemas.logs import log_to_stderr
from schemas.system_limits import describe

COMMANDS = {
    "demo": "orchestrator.commands.demo",
    "up": "orchestrator.commands.up",
    "serve": "orchestrator.commands.serve",
    "node": "orchestrator.commands.node",
    "init": "orchestrator.commands.init",
    "invite": "orchestrator.commands.invite",
    "join": "orchestrator.commands.join",
    "members": "orchestrator.commands.members",
    "revoke": "orchestrator.commands.revoke",
    "doctor": "orchestrator.commands.doctor",
    "fleet": "orchestrator.commands.fleet",
    "permit-join": "orchestrator.commands.permit_join",
    "api": "orchestrator.commands.api",
    "key": "orchestrator.commands.key",
    "ask": "orchestrator.commands.ask",
    "chat": "orchestrator.commands.chat",
    "nodes": "orchestrator.commands.nodes",
    "rename": "orchestrator.commands.rename",
    "plan": "orchestrator.commands.plan",
    "rebalance": "orchestrator.commands.rebalance",
    "top": "orchestrator.commands.top",
    "events": "orchestrator.commands.events",
    "trace": "orchestrator.commands.trace",
    "simulate": "orchestrator.commands.simulate",
    "bench": "orchestrator.commands.bench",
    "model": "orchestrator.commands.model",
    "service": "orchestrator.commands.service",
    "config": "orchestrator.commands.config",
    "completion": "orchestrator.commands.completion",
    "update-check": "orchestrator.commands.update_check",
    "version": "orchestrator.commands.version",
}
"""Name of a command to its module; the module's ``command`` is what runs."""


NODE = "node"
"""What the configuration file says of it, ``linguabus-node`` reads."""


class LazyGroup(ConfiguredGroup, HelpGroup):
    """A group that imports a command's module when the command is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name]).command
        return command


def _read_config(context: click.Context, path: Path) -> ConfigFile:
    from broker.config_reader import read_config  # YAML, only where there is a file

    return read_config(context, path, others=(NODE,))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "LINGUABUS"},
    epilog="Example: linguabus demo",
)
@config_option(_read_config)
@bus_options
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where models and state are kept. [default: LINGUABUS_HOME or ~/.local/share/linguabus]",
)
@click.option("-v", "--verbose", count=True, type=WholeRange(0), help="Say more; twice for debugging.")
@click.version_option(PACKAGE_VERSION, prog_name="linguabus")
@pass_settings
def cli(settings: Settings, home: Path | None, verbose: int) -> None:
    """Several phones and small computers, linked by an MQTT broker, run one language model together."""
    if home is not None:
        settings.home = home
    settings.verbose = verbose
    log_to_stderr(verbose, settings.home_if_any)


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code: see `exits`."""
    settle_streams()
    settings = Settings()
    try:
        result = cli.main(args=arguments, prog_name="linguabus", standalone_mode=False, obj=settings)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "linguabus"
        return _fail(f"{error.format_message()} (see: {where} --help)", WRONG_INPUT)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SystemExit as left:  # a signal, see `leave_on_signals`
        return left.code if isinstance(left.code, int) else FAILURE
    except BrokenPipeError:
        # Whoever read our output is gone; without this, Python complains once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except LinguabusError as error:
        _show_details(settings)
        return _fail(str(error), exit_code(error))
    except ModuleNotFoundError as error:
        _show_details(settings)
        return _fail(missing_module(error), WRONG_INPUT)
    except OSError as error:
        _show_details(settings)
        return _fail(describe(error), FAILURE)
    except Exception as error:
        _show_details(settings)
        return _fail(f"{type(error).__name__}: {error} (a bug; please report it with the output of -vv)", FAILURE)
    return result if isinstance(result, int) else 0


def _show_details(settings: Settings) -> None:
    if settings.verbose >= 2:
        traceback.print_exc()


def _fail(message: str, code: int) -> int:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    return code


def main() -> None:
    """The console script."""
    os.umask(0o077)  # keys, prompts in the orchestrator's state: what is kept is its owner's alone
    sys.exit(run())


if __name__ == "__main__":
    main()
