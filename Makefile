.PHONY: check lint types test wheel bench
check: lint types test

lint:
	ruff check . && ruff format --check .

types:
	mypy

test:
	pytest

wheel:
	bash .ci/wheel

bench:
	python -m benchmarks
