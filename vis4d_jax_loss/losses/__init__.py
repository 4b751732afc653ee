"""One family of losses per file: functions first, modules below them."""
