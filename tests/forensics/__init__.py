"""The detectors of anomalies in traces."""
