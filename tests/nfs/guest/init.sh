#!/bin/sh
# Process 1 of the guest. It only makes a place where Python can run; guest/main.py does the rest.
# The RIG_* variables come from the kernel's command line. The root file system is the host's own,
# read-only, so everything that must be written lies under /run and the one host folder RIG_OUT.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/run LC_ALL=C.UTF-8
export PYTHONDONTWRITEBYTECODE=1 PYTHONFAULTHANDLER=1
# On a host with tile registers the kernel keeps those of SSE only (registers.py).
if [ -n "$RIG_NUMPY_WITHOUT" ]; then
  export NPY_DISABLE_CPU_FEATURES="$RIG_NUMPY_WITHOUT" ARROW_USER_SIMD_LEVEL=NONE
  export GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX_Fast_Unaligned_Load
fi
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs run /run
mkdir -p /run/host /run/modules/lib
ln -s /usr/lib/uml/modules /run/modules/lib/modules
mount -t hostfs none /run/host -o "$RIG_OUT"
cd /run
echo "guest up" >/run/host/up
[ -n "$RIG_PYTHON" ] && "$RIG_PYTHON" "$RIG_MAIN" 2>&1
# poweroff(8) wants a running init; this does not.
echo o >/proc/sysrq-trigger
halt -f -p --no-wtmp
