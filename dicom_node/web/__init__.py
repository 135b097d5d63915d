"""The read-only web page over the node's rows: studies, queue, audit, health and metrics."""

from dicom_node.web.access import load_or_create_token
from dicom_node.web.app import create_app, serve_web, sign_in_address, web_server

__all__ = ["create_app", "load_or_create_token", "serve_web", "sign_in_address", "web_server"]
