"""How fast imagebroker is beside what people would use instead.

    benchmarks/install-peers            the others, once
    python -m benchmarks                everything; prints a Markdown table
    python -m benchmarks --rows http --pairs 1 --scale 0.05

`benchmarks.records` measures listing and showing images.
"""
