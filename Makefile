# Plain `make` needs a C compiler and BearSSL, asks no network and installs nothing.
# `make help` lists the targets. Settings on the command line or in config.mk:
#
#   CC CFLAGS LDFLAGS   the compiler and its flags; what the sources need is added to them
#   BEARSSL=DIR         a BearSSL source tree (inc/, build/libbearssl.a) or a prefix (include/, lib/)
#   DESTDIR PREFIX      where `make install` puts things; SYSTEMD=DIR: the units, too, for example /etc/systemd/system
#   SECONDS             how long `make fuzz`, `make fuzz-afl` (600) and `make soak` (1800) last
#   TARGET              of `make fuzz`, `make cross`, `make emulated`, `make vm-suite`: which, if not all
#   N SEED              of `make mutate`: how many mutants (300), and which; SEED also of those in `make deep`, `make audit`
#   ROUNDS ONLY         of `make bench`: how many (5), and a regular expression of what (all; see bench.py --help)
#   PORT LISTEN         where `make run` listens: 8443 and 127.0.0.1

CC      = cc
CFLAGS  = -O2 -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fPIE
LDFLAGS = -pie -Wl,-z,relro,-z,now
BEARSSL =
PREFIX  = /usr/local
SYSTEMD =
PORT    = 8443
LISTEN  = 127.0.0.1
PYTHON  = /usr/bin/python3
JOBS    = 4
SECONDS =
TARGET  =
N       = 300
ROUNDS  = 5
ONLY    =
SEED    =

-include config.mk

WARN = -Wall -Wextra -Wpedantic -Wshadow -Wmissing-prototypes -Wvla
OWN  = -std=c11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -D_TIME_BITS=64 $(WARN) $(INC)
OBJ  = main.o tls.o http.o ws.o
SAN  = -g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
COV  = -g -O0 --coverage -fprofile-abs-path

INC != test -z "$(BEARSSL)" || echo "-isystem $(BEARSSL)/inc -isystem $(BEARSSL)/include"
LIB != if test -z "$(BEARSSL)"; then echo -lbearssl; \
	elif test -f "$(BEARSSL)/build/libbearssl.a"; then echo "$(BEARSSL)/build/libbearssl.a"; \
	else echo "-L$(BEARSSL)/lib -lbearssl"; fi

# The date before which no certificate of wssd-selfsign begins: the clock of a device may never have been set.
BUILD_DATE != echo "$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || date +%s)}"

# What `wssd --version` says of the build.
BUILT != sh dist/built.sh $(CC) $(OWN) $(CFLAGS) $(LDFLAGS)

all: wssd wssd-selfsign

wssd: $(OBJ)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(OBJ) $(LIB)

$(OBJ): ws.h Makefile

.c.o:
	$(CC) $(OWN) -DWSSD_BUILD='"$(BUILT)"' $(CFLAGS) -c -o $@ $<

wssd-selfsign: dist/selfsign.c Makefile
	$(CC) $(OWN) -DBUILD_DATE=$(BUILD_DATE) $(CFLAGS) $(LDFLAGS) -o $@ dist/selfsign.c $(LIB)

# For `make deep`: the same with sanitizers.
build/san/wssd: $(OBJ:.o=.c) ws.h Makefile
	mkdir -p build/san
	$(CC) $(OWN) $(SAN) -o $@ $(OBJ:.o=.c) $(LIB)

# For `make coverage`: the same with counters of gcc's, each condition a branch of its own.
build/cov/wssd: $(OBJ:.o=.c) ws.h Makefile
	mkdir -p build/cov
	gcc $(OWN) $(COV) -o $@ $(OBJ:.o=.c) $(LIB)

# With DESTDIR nothing but copying, and no root needed. What names /usr/share/wssd or /usr/lib/wssd gets PREFIX instead.
HERE = $(DESTDIR)$(PREFIX)
COPY = copy() { sed 's:/usr/\(sbin/wssd\|share/wssd\|lib/wssd\):$(PREFIX)/\1:' "$$1" >"$$2" && chmod 644 "$$2"; }

install: all
	install -d $(HERE)/sbin $(HERE)/share/man/man8 $(HERE)/share/doc/wssd/examples $(HERE)/share/wssd/www
	install wssd wssd-selfsign $(HERE)/sbin/
	install -m 644 dist/www/* $(HERE)/share/wssd/www/
	$(COPY) && copy dist/wssd.conf $(HERE)/share/doc/wssd/examples/wssd.conf && \
		for f in *.8; do copy $$f $(HERE)/share/man/man8/$$f || exit; done
	test -z "$(SYSTEMD)" || $(MAKE) install-units

install-units:
	install -d $(DESTDIR)$(SYSTEMD) $(HERE)/lib/wssd
	install dist/systemd/certificate $(HERE)/lib/wssd/
	$(COPY) && cd dist/systemd && for f in *.service *.timer; do copy $$f $(DESTDIR)$(SYSTEMD)/$$f || exit; done

# Debian's package in build/deb, by dpkg-buildpackage, from a copy of the tree.
deb:
	@sh test/install run deb
	sh dist/deb.sh

# The two programs for other machines, static, into build/cross/TARGET.
cross:
	@sh test/install cross
	$(PYTHON) test/cross.py $(TARGET)

# The system tests against four of them, by qemu's user mode, and with musl, or against those of TARGET.
emulated:
	@sh test/install run test cross emulated
	@$(MAKE) all
	t="$(TARGET)" && $(PYTHON) test/emulated.py --jobs $(JOBS) $${t:-armv7 aarch64 mipsel mips x86-64-musl}

# For `make bench`: what drives the servers, the two floors they are compared with, and some of the servers.
build/bench/load: test/bench/load.c Makefile
	mkdir -p build/bench
	$(CC) $(OWN) $(CFLAGS) $(LDFLAGS) -o $@ test/bench/load.c -lssl -lcrypto

build/bench/floor: test/bench/floor.c Makefile
	mkdir -p build/bench
	$(CC) $(OWN) $(CFLAGS) $(LDFLAGS) -o $@ test/bench/floor.c $(LIB)

build/bench/lws: test/bench/peers/lws.c Makefile
	mkdir -p build/bench
	$(CC) $(OWN) $(CFLAGS) $(LDFLAGS) -o $@ test/bench/peers/lws.c -lwebsockets -lssl -lcrypto

build/bench/node/node_modules/.package-lock.json: test/bench/peers/install
	sh test/bench/peers/install build/bench/node
	touch $@

# The packages that a target needs stand in test/packages.txt; test/install says what it adds.
run:
	@sh test/install run
	@$(MAKE) all
	@PORT=$(PORT) LISTEN=$(LISTEN) exec sh dist/run.sh

test:
	@sh test/install run test
	@$(MAKE) all
	$(PYTHON) -m pytest -q -n $(JOBS) -m "not deep" test

deep:
	@sh test/install run test deep deb
	@$(MAKE) all build/san/wssd build/cov/wssd
	@JOBS=$(JOBS) PYTHON=$(PYTHON) SEED=$(SEED) sh test/deep.sh

# The proofs of the parsers, and that each of them can fail.
prove:
	@sh test/install run deep
	$(PYTHON) test/prove/prove.py

prove-mutants:
	@sh test/install run deep
	$(PYTHON) test/prove/prove.py --mutants

coverage:
	@sh test/install run test deep
	@$(MAKE) build/cov/wssd
	$(PYTHON) test/covered.py --jobs $(JOBS)

# Each target (or those of TARGET) for SECONDS, two at a time; the working corpus and what is found in build/fuzz.
fuzz:
	@sh test/install run deep
	s=$(SECONDS) && $(PYTHON) test/fuzz/fuzz.py --seconds $${s:-600} $(TARGET)

fuzz-afl:
	@sh test/install run deep fuzz
	s=$(SECONDS) && $(PYTHON) test/fuzz/fuzz.py --afl --seconds $${s:-600}

fuzz-check:
	@sh test/install run deep
	$(PYTHON) test/fuzz/fuzz.py --check $(TARGET)

# 30 minutes of it, or so long as SECONDS says.
soak:
	@sh test/install run test
	@$(MAKE) all build/san/wssd
	s=$(SECONDS) && $(PYTHON) test/soak.py --seconds $${s:-1800} wssd build/san/wssd

# Machines with 64 MB, an ARM and a big-endian one, emulated; the kernel in them is Debian's.
vm:
	@sh test/install run test vm
	$(PYTHON) test/vm.py

# The suite inside of such a machine, under the filter of system calls; TARGET="sandbox tls": only these files of it.
vm-suite:
	@sh test/install run test vm
	$(PYTHON) test/vmsuite.py $(TARGET)

# What a message, a client and a handshake cost, beside other servers: 25 minutes on a quiet machine with two cores.
bench:
	@sh test/install run bench
	@$(MAKE) all build/bench/load build/bench/floor build/bench/lws build/bench/node/node_modules/.package-lock.json
	$(PYTHON) test/bench/bench.py --rounds $(ROUNDS) --only '$(ONLY)'
	test -n "$(ONLY)" || $(MAKE) bench-counts

# What needs no clock, and no quiet machine: instructions, system calls, sizes; into RESULTS.md, too. With
# BEARSSL=DIR, a tree of sources, it prints what that makes of it.
bench-counts:
	@sh test/install run counts
	@if test -d "$(BEARSSL)/src"; then $(PYTHON) test/bench/counts.py --bearssl "$(BEARSSL)"; \
	else $(PYTHON) test/bench/counts.py --write; fi

# Changes of the sources, one at a time, that the tests must notice; goes on where it was broken off.
mutate:
	@sh test/install run test
	$(PYTHON) test/mutate.py --number $(N) --seed "$(SEED)"

# SEED says which ten of the claims of AUDIT.md are broken.
audit:
	@sh test/install run test deep
	@$(MAKE) all
	status=0; $(PYTHON) test/audit.py || status=1; \
	$(PYTHON) test/claims.py --seed "$(SEED)" && exit $$status

clean:
	rm -f wssd wssd-selfsign $(OBJ)
	rm -rf build

help:
	@echo 'make          build ./wssd and ./wssd-selfsign'
	@echo 'make run      install what is missing, build, start with the console page'
	@echo 'make install  to $$(DESTDIR)$$(PREFIX), now $(DESTDIR)$(PREFIX); SYSTEMD=DIR adds the units (make install-units)'
	@echo 'make deb      Debian package, in build/deb'
	@echo 'make cross    static programs for other machines, or those of TARGET, in build/cross'
	@echo 'make emulated the system tests against those for ARM and MIPS, or those of TARGET, by qemu'
	@echo 'make test     the tests, less than 5 minutes'
	@echo 'make deep     the long ones: sanitizers, valgrind, analyzers, gigabytes'
	@echo 'make prove    proofs of the parsers and of the ring; make prove-mutants: that they can fail'
	@echo 'make coverage each line and each branch, by gcovr; build/coverage'
	@echo 'make fuzz     libFuzzer over all targets, SECONDS each; make fuzz-check: that they find something'
	@echo 'make fuzz-afl AFL++ over the whole server'
	@echo 'make soak     honest and hostile traffic for half an hour, plain and with sanitizers side by side'
	@echo 'make vm       serves from machines with 64 MB, ARM and S/390, with kernels of Debian, in qemu'
	@echo 'make vm-suite the suite inside of such an ARM, its filter of system calls on; 40 minutes'
	@echo 'make mutate   changes N lines of the sources one by one: the tests must notice'
	@echo 'make bench    CPU time a message, memory a client, beside other servers; test/bench/RESULTS.md'
	@echo 'make bench-counts  instructions, system calls, sizes, time to start; no quiet machine needed'
	@echo 'make audit    size, boundaries, warnings, analyzers; breaks ten claims of AUDIT.md, which must be noticed'
	@echo 'make clean    remove what make built'

.PHONY: all install install-units deb cross emulated run test deep coverage prove prove-mutants fuzz fuzz-afl
.PHONY: fuzz-check soak vm vm-suite mutate bench bench-counts audit clean help
