"""The MQTT bus: the port (`bus`), the paho adapter (`mqtt`), an in-process twin (`memory`), a `local_broker`."""
