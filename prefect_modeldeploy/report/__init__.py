"""What a rollout leaves behind for people: the report as Markdown and as HTML."""

from prefect_modeldeploy.report.html import report_html, write_report
from prefect_modeldeploy.report.markdown import report_markdown
from prefect_modeldeploy.report.preview import preview_markdown

__all__ = ["preview_markdown", "report_html", "report_markdown", "write_report"]
