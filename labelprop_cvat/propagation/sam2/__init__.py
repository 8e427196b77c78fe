"""SAM 2 as a propagation engine: weights, a streaming tracker that is exact, single-frame sessions."""
