"""What a rollout leaves behind for people: the report as Markdown and as HTML, and rows for table artifacts."""

from prefect_modeldeploy.report.html import report_html, write_report
from prefect_modeldeploy.report.markdown import report_markdown
from prefect_modeldeploy.report.preview import preview_markdown
from prefect_modeldeploy.report.tables import deployments_table, steps_table

__all__ = ["deployments_table", "preview_markdown", "report_html", "report_markdown", "steps_table", "write_report"]
