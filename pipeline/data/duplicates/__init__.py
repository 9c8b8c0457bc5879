"""What stands in a corpus twice, exactly or nearly."""
