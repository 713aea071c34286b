"""Reports: frozen records, and their table and JSON forms."""

from mlpass.report.records import LayerRecord, Report

__all__ = ["LayerRecord", "Report"]
