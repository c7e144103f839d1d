"""One HTTP server for metrics, health, events and the API: uvicorn, with bounds on connections and bodies."""
