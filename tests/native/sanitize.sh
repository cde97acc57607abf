#!/bin/sh
# The native tests under sanitizers, in a build of their own:
#   tests/native/sanitize.sh address,undefined [pytest options]
#   tests/native/sanitize.sh thread [pytest options]
set -eu
sanitizers=$1
shift
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cd "$root"
REFGSS_SANITIZE=$sanitizers REFGSS_REQUIRE_NATIVE=1 python setup.py -q build \
    --build-base "$folder/base" --build-lib "$folder/lib"
cp -r tests "$folder/lib/tests"  # beside the build: the repository's refgss must not be found first
cd "$folder/lib"

# the interpreter is not instrumented: the run-time libraries come first; its leaks are not ours
preload=$(g++ -print-file-name=libstdc++.so)
case $sanitizers in *undefined*) preload="$(g++ -print-file-name=libubsan.so) $preload" ;; esac
case $sanitizers in *address*) preload="$(g++ -print-file-name=libasan.so) $preload" ;; esac
case $sanitizers in *address*)
    g++ -shared -fPIC -O1 "$root/tests/native/failing_new.cpp" -o "$folder/failing_new.so"
    preload="$folder/failing_new.so $preload" ;;
esac
case $sanitizers in *thread*) preload="$(g++ -print-file-name=libtsan.so) $preload" ;; esac
options=detect_leaks=0:allocator_may_return_null=1
options=$options:verify_asan_link_order=0:alloc_dealloc_mismatch=0  # for failing_new
export ASAN_OPTIONS=$options UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:exitcode=66
LD_PRELOAD=$preload python -m pytest -p no:cacheprovider -x "$@" tests/native
