"""The bus: the port (`bus`), the paho adapter (`mqtt`), its in-process twin (`memory`), a `local_broker` broker."""
