"""What the system starts with the machine and keeps running: units of systemd, services of Termux."""
