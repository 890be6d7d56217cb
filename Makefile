# Thin targets: each is plain commands, run by setup.sh in the environment that it prepares. `make help` lists them.
# All build the whole workspace: for some of its packages only, cargo would choose other features and compile everything once more.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check rust jvm package spark cluster cluster-test spark-long conformance build bench bench-spark deploy dist release release-test version

IN := ./setup.sh --
MVN := mvn --batch-mode --no-transfer-progress --quiet -f jvm-bridge/pom.xml

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name what; do printf '  make %-12s %s\n' "$$name" "$$what"; done

demo: ## the same jobs on Spark's own shuffle and on Forebay, with an executor and then a server killed in between
	@parts=$$(test -e target/release/forebay-server || deploy/release/parts.sh find); \
	if [ -n "$$parts" ]; then echo "compiling nothing: programs of the same sources are in $$parts"; else make --no-print-directory build || exit; fi; \
	./setup.sh --spark 4.3.0 -- python tests/spark/demo.py $${parts:+--parts "$$parts"}

test: check rust jvm package deploy spark cluster ## exactly what CI runs; spark-long and conformance have more
	@echo "make test: formatting, lints, Rust, JVM, package, deployment, Spark and cluster tests all passed"

check: ## formatting, lints, and licences of what we depend on
	$(IN) cargo fmt --all --check
	@./setup.sh --check -- tests/deny
	$(IN) cargo clippy --workspace --all-targets --release --quiet -- -D warnings

rust: ## unit, property, conformance and gRPC tests, with real server processes; where root, disks and stores are there, none may be skipped
	$(IN) cargo build --workspace --release
	@./setup.sh --stores --disks --prometheus -- tests/no-skip cargo test --workspace --release

jvm: ## the Spark plugin: its jar, and its own tests
	$(IN) cargo build --workspace --release
	$(IN) $(MVN) package

deploy: build ## the chart rendered by Helm, read by the schemas of three Kubernetes versions; the manifests and examples
	@./setup.sh --charts --prometheus -- pytest tests/deploy

package: build ## what is given away, as far as this machine's own build shows it: licences, versions, the wheel in an empty environment
	@./setup.sh --check --spark 4.3.0 -- pytest tests/release

spark: build ## real Spark 3.5.9 and 4.3.0 on real servers, and Spark's own ShuffleSuite
	@./setup.sh --spark 3.5.9 --spark 4.3.0 --java 11 -- pytest tests/spark tests/conformance
	@$(IN) python tests/conformance/spark_suites.py --lines 3.5.9 --suites ForebayShuffleSuite

cluster: build ## a short choice of cluster-test, where it was run before: without the programs in the cache it says SKIPPED
	@./setup.sh --spark 4.3.0 -- pytest tests/cluster

cluster-test: build ## a real Kubernetes of two nodes on this machine, the chart, and Spark's jobs while pods, nodes and versions go (as root; the first time builds it)
	@./setup.sh --spark 4.3.0 --disks --cluster -- env FOREBAY_TEST_NO_SKIP=1 pytest tests/cluster -m "long or not long"

conformance: build ## hours: all of TPC-H and TPC-DS on every Spark line, and Spark's own test suites (ARGS=--record keeps the results)
	@./setup.sh $(addprefix --spark ,3.5.9 4.0.5 4.1.4 4.2.1 4.3.0) -- python tests/conformance/tpc.py $(ARGS)
	@$(IN) python tests/conformance/spark_suites.py $(ARGS)
	@./setup.sh --spark 4.1.4 --comet -- pytest tests/spark/test_comet.py -m long

spark-long: build ## what takes minutes: giant records, 20 000 tasks, many kills, and on 3.5.9 what the newest line had in make test
	@./setup.sh --spark 3.5.9 --spark 4.3.0 --java 11 --java 21 -- pytest tests/spark -m long

build: ## the server, its tool, the load tool, the native library and the jar with it
	@test -e target/release/forebay-server || echo "first build: about 6 minutes on 2 cores, once RocksDB is there"
	@$(IN) cargo build --workspace --release
	@$(IN) $(MVN) package -DskipTests
	@deploy/release/parts.sh keep

bench: build ## forebay-bench: push and fetch, beside the same bytes over raw TCP
	@$(IN) target/release/forebay-bench all --spawn --json target/bench/forebay-bench.json

bench-spark: build ## rows over Spark's own shuffle and over Forebay, round by round: time and CPU (ARGS="--rows 30000000")
	@./setup.sh --spark 4.3.0 -- python benches/spark/compare.py $(ARGS)

release: ## dist/: everything that is given away, for x86_64 and aarch64: archives, images, a Maven repository, wheels, the chart, sums
	@./setup.sh --release --check --charts --spark 3.5.9 -- deploy/release/release.sh

release-test: ## tries what `make release` made: images in podman, aarch64 in an emulator, --packages, the wheel's demo in an empty environment
	@./setup.sh --release --check --spark 4.3.0 -- pytest tests/release -m dist $(ARGS)

version: ## writes a version (V=0.2.0) into Cargo.toml and the files that must repeat it
	@python3 deploy/release/version.py --set $(V)

dist: ## dist/: server and tools optimised further, and the jar with native libraries for x86_64 and aarch64 (glibc 2.17)
	@./setup.sh --dist -- ./dist.sh
