.PHONY: check lint types test wheel docs bench torture
check: lint types test

lint:
	ruff check . && ruff format --check .

types:
	mypy

test:
	pytest

wheel:
	bash .ci/wheel

docs:
	DISABLE_MKDOCS_2_WARNING=true NO_MKDOCS_2_WARNING=1 properdocs build --quiet

bench:
	python -m benchmarks

torture:
	OMP_NUM_THREADS=1 python -m benchmarks.reliability
