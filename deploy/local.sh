#!/usr/bin/env bash
# The stack of compose.yaml as processes of this machine, by the same configuration files, until Ctrl-C:
#   deploy/local.sh MODEL OHIF_DIST FOLDER
# OHIF_DIST is the folder dist of the npm package @ohif/app. Needs orthanc, orthanc-dicomweb and nginx-light of Debian, and
# cxr in the PATH. CXR_PORT_OFFSET=1000 moves all ports.
set -euo pipefail
model=$(realpath "$1") ohif=$(realpath "$2") work=$(realpath -m "$3")
source=$(cd "$(dirname "$0")" && pwd)
PATH=$PATH:/usr/sbin
mkdir -p "$work"/{config,archive,state,verdicts,tmp}

# Names of services become this machine, paths in containers folders of this machine.
script="s#//orthanc:#//127.0.0.1:#; s#\"node\"#\"127.0.0.1\"#; s#0\.0\.0\.0#127.0.0.1#; s#\"/model\"#\"$model\"#
s#\"/state\"#\"$work/state\"#; s#/var/lib/orthanc/stack#$work/archive#; s#root /ohif#root $ohif#; s#/tmp/nginx#$work/tmp/nginx#
s#([ \"])/config/#\1$work/config/#; s#(RemoteAccessAllowed\": )true#\1false#; s#listen 8080#listen 127.0.0.1:8080#"
for port in 4242 8042 8080 9100 11112; do script+="; s#\b$port\b#$((port + ${CXR_PORT_OFFSET:-0}))#"; done
for file in orthanc.json forward.lua node.toml app-config.js nginx.conf; do
  sed -E "$script" "$source/$file" >"$work/config/$file"
done
port() { echo $(($1 + ${CXR_PORT_OFFSET:-0})); }

trap 'trap - EXIT; kill $(jobs -p) 2>/dev/null; wait' EXIT
trap 'exit 130' INT TERM
Orthanc "$work/config/orthanc.json" 2>"$work/orthanc.log" &
nginx -e stderr -c "$work/config/nginx.conf" -g "daemon off; $([[ $(id -u) -ne 0 ]] || echo "user root;")" 2>"$work/viewer.log" &
cxr dicom_node run --config "$work/config/node.toml" 2>"$work/node.log" &
cxr serve "$model" --port "$(port 7860)" --store "$work/verdicts" >"$work/page.log" 2>&1 &

for address in "$(port 8042)/system" "$(port 8080)/" "$(port 9100)/readyz" "$(port 7860)/"; do
  until curl -fsS -o /dev/null "http://127.0.0.1:$address" 2>/dev/null; do
    [[ $(jobs -rp | wc -l) -eq 4 ]] || { echo "a process has ended; see $work/*.log" >&2; exit 1; }
    sleep 0.2
  done
done
echo "archive: ORTHANC@127.0.0.1:$(port 4242)  viewer: http://127.0.0.1:$(port 8080)  page: http://127.0.0.1:$(port 7860)"
wait -n
