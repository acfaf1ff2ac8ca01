#!/bin/sh
# What `make deep` runs after the build: the long tests, then the suite against a server built with AddressSanitizer and
# UndefinedBehaviorSanitizer, then the conformance tests against one under valgrind, for reads of what nobody wrote, then the
# suite against servers for other machines, emulated, and with musl, then the proofs, coverage, a minute of each fuzzing
# target, a short soak, ten mutants, and five claims of AUDIT.md.
# Exit status 0 only if all passed.
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-/usr/bin/python3} jobs=${JOBS:-2} status=0

echo "== long tests"
# one at a time: they measure, and the machine is theirs
$python -m pytest -q -n 1 -m deep --timeout 1500 test || status=1

echo "== each system call fails in each way, then the same with sanitizers"
$python test/faulty.py --jobs "$jobs" || status=1
WSSD_SLOW=2 $python test/faulty.py --jobs "$jobs" --binary build/san/wssd || status=1

echo "== the suite under AddressSanitizer and UndefinedBehaviorSanitizer"
WSSD=$PWD/build/san/wssd WSSD_SLOW=3 \
	$python -m pytest -q -n "$jobs" -m "not deep and not plain" --timeout 600 \
	--ignore test/test_audit.py --ignore test/test_build.py --ignore test/test_dist.py --ignore test/test_newcomer.py \
	--ignore test/test_selfsign.py --ignore test/test_bench.py --ignore test/test_fuzz.py \
	--ignore test/test_unit.py --ignore test/test_wsraw.py test || status=1

echo "== conformance under valgrind"
WSSD_WRAP="valgrind -q --error-exitcode=99" WSSD_SLOW=10 \
	$python -m pytest -q -n "$jobs" -m "not deep and not plain" --timeout 600 \
	test/test_conformance.py test/test_http.py || status=1

echo "== the suite for other machines: MIPS, which is big-endian and has 32 bits, and with musl, then in part ARM"
$python test/emulated.py --jobs "$jobs" mips x86-64-musl || status=1
$python test/emulated.py --jobs "$jobs" --short armv7 || status=1

echo "== proofs"
$python test/prove/prove.py || status=1
$python test/prove/prove.py --mutants --sample 12 || status=1

echo "== coverage"
$python test/covered.py --jobs "$jobs" || status=1

echo "== fuzzing"
$python test/fuzz/fuzz.py --seconds 60 --jobs 2 --seed "${SEED:-1}" || status=1

echo "== soak, short"
$python test/soak.py --seconds 40 wssd build/san/wssd || status=1

echo "== ten mutants"
$python test/mutate.py --number 10 --short --seed "$SEED" || status=1

echo "== five claims of AUDIT.md, broken"
$python test/claims.py --number 5 --seed "$SEED" || status=1

exit $status
