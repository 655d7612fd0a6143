"""``linguabus config``: what the configuration file, the environment and flags have said."""

from broker.config_show import config_command

command = config_command("Example: linguabus config show serve")
