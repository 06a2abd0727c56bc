.PHONY: run test test-long soak vm bench deb rpm payload install uninstall clean fmt lint

run:
	@scripts/run.sh

test:
	@scripts/test.sh

test-long:
	@ASH_TEST_LONG=1 scripts/test.sh

soak:
	@scripts/soak.sh

vm:
	@scripts/vm.sh $(JOURNEYS)

bench:
	@scripts/bench.sh

deb rpm:
	@scripts/package.sh $@

payload install uninstall:
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" PAYLOAD="$(PAYLOAD)" scripts/install.sh $@

clean:
	@scripts/clean.sh

fmt:
	@cargo fmt --all

lint:
	@scripts/lint.sh
