"""Where people meet the model: pages to write, rank, chat and judge. `app.create_app` puts them together."""
