.PHONY: check lint types test bench torture
check: lint types test

lint:
	ruff check . && ruff format --check .

types:
	mypy

test:
	pytest

bench:
	python -m benchmarks

torture:
	OMP_NUM_THREADS=1 python -m benchmarks.reliability
