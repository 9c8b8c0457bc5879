"""The open language-model recipe as a library: everything here is true without Tango."""
