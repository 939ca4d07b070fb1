#!/usr/bin/env bash
# A run on one TPU slice of Compute Engine: 4 hosts with 4 chips each (v6e, 4x4), a process a host.
#
#   gce_tpu.sh create      the slice: a workload policy, an instance template, a managed instance group
#   gce_tpu.sh install     on every host: the shared folder, Python, this package from a wheel
#   gce_tpu.sh doctor      try everything out
#   gce_tpu.sh run rlhf sft --distributed auto --out /runs/mine ...     start it on every host, restarted when it fails
#   gce_tpu.sh log         what host 0 says, until Ctrl-C; the run goes on
#   gce_tpu.sh stop        SIGTERM: a checkpoint, status 143
#   gce_tpu.sh delete      the slice, which costs as long as it is there
#
# Set in the environment: PROJECT, ZONE, NFS (HOST:/EXPORT that all hosts mount at /runs), WHEEL (rlhf_jax-...whl).
set -euo pipefail

PROJECT=${PROJECT:?the project id} ZONE=${ZONE:?a zone with this kind of TPU, such as us-east5-a}
NAME=${NAME:-rlhf} MACHINE=${MACHINE:-ct6e-standard-4t} TOPOLOGY=${TOPOLOGY:-4x4} HOSTS=${HOSTS:-4}
IMAGE=${IMAGE:-ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e} PROVISIONING=${PROVISIONING:-STANDARD} DISK=${DISK:-200GB}
REGION=${ZONE%-*}
here=$(cd "$(dirname "$0")" && pwd)

compute() { gcloud compute "$@" --project="$PROJECT"; }

hosts() {
  compute instance-groups managed list-instances "$NAME" --zone="$ZONE" --format='value(instance.basename())'
}

# The same command on every host at once, each line with the host's name before it.
everywhere() {
  local host pid failed=0
  local -a running=()
  for host in $(hosts); do
    (compute ssh "$host" --zone="$ZONE" --command="$1" < /dev/null 2>&1 | sed "s/^/[$host] /") &
    running+=($!)
  done
  for pid in "${running[@]}"; do wait "$pid" || failed=1; done
  return $failed
}

create() {
  compute resource-policies create workload-policy "$NAME" --region="$REGION" --type=HIGH_THROUGHPUT \
    --accelerator-topology="$TOPOLOGY"
  compute instance-templates create "$NAME" --machine-type="$MACHINE" --provisioning-model="$PROVISIONING" \
    --image-project=ubuntu-os-accelerator-images --image-family="$IMAGE" --boot-disk-size="$DISK" \
    --maintenance-policy=TERMINATE --scopes=cloud-platform
  # A host that is mended alone is not in the slice any more, hence do-nothing: delete, create, run again.
  compute instance-groups managed create "$NAME" --zone="$ZONE" --template="$NAME" --size="$HOSTS" \
    --default-action-on-vm-failure=do-nothing \
    --workload-policy="projects/$PROJECT/regions/$REGION/resourcePolicies/$NAME"
  compute instance-groups managed wait-until "$NAME" --zone="$ZONE" --stable
}

install() {
  local host
  : "${NFS:?HOST:/EXPORT}" "${WHEEL:?a wheel of this package}"
  for host in $(hosts); do
    compute scp "$WHEEL" "$here/restart.sh" "$host:" --zone="$ZONE"
  done
  everywhere "set -e
    sudo apt-get update -q && sudo apt-get install -qy nfs-common curl
    sudo mkdir -p /runs && (mountpoint -q /runs || sudo mount -t nfs $NFS /runs)
    curl -LsSf https://astral.sh/uv/install.sh | sh
    ~/.local/bin/uv venv --clear --python 3.12 ~/venv
    ~/.local/bin/uv pip install --python ~/venv/bin/python \"\$HOME/$(basename "$WHEEL")[tpu]\""
}

run() {
  local words
  words=$(printf '%q ' "$@")
  # A unit of its own, so that the run does not end with the connection.
  everywhere "sudo systemd-run --unit=rlhf --collect --uid=\$USER --property=KillMode=mixed --property=TimeoutStopSec=180 \
    --setenv=HOME=\$HOME --setenv=PATH=\$HOME/venv/bin:\$PATH --setenv=JAX_COMPILATION_CACHE_DIR=/runs/compiled \
    bash \$HOME/restart.sh $words"
}

delete() {
  compute instance-groups managed delete "$NAME" --zone="$ZONE"
  compute instance-templates delete "$NAME"
  compute resource-policies delete "$NAME" --region="$REGION"
}

case ${1:-} in
  create) create ;;
  install) install ;;
  doctor) everywhere 'PATH=$HOME/venv/bin:$PATH rlhf doctor --distributed auto --out /runs' ;;
  run) shift && run "$@" ;;
  log) compute ssh "$(hosts | head -n 1)" --zone="$ZONE" --command='sudo journalctl --unit=rlhf --follow' ;;
  stop) everywhere 'sudo systemctl stop rlhf' ;;
  delete) delete ;;
  *) sed -n 's/^# \{0,1\}//; 3,11p' "$0" >&2; exit 2 ;;
esac
