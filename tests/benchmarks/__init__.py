"""The benchmarks' own tools: contestants deliver what they say, the slow mount passes through."""
