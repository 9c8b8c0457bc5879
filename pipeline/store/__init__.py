"""Where results live and who may use them; knows nothing of Tango."""
