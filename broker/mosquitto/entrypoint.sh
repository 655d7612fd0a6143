#!/bin/sh
# Mosquitto in a container, beside an orchestrator in another one, which can't send it a signal: has it read its files
# again when they have changed. entrypoint.sh FOLDER, as `linguabus init --broker-files FOLDER` has filled it.
set -u
folder=$1

# What Mosquitto reads again on SIGHUP. Contents: a time of change is too coarse for two changes within a second.
state() { cat "$folder/passwords" "$folder/roles" "$folder/server.pem" | cksum; }

before=$(state)
mosquitto -c "$folder/mosquitto.conf" &
mosquitto=$!
trap 'kill "$mosquitto"' TERM INT

while sleep 0.5 && kill -0 "$mosquitto" 2>/dev/null; do
    now=$(state)
    # One file is written after the other: who is half a member for a moment is a whole one the next time.
    [ "$now" = "$before" ] || kill -HUP "$mosquitto"
    before=$now
done
wait "$mosquitto"
