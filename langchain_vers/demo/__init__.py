"""`langchain-vers demo`: an agent at work on a machine of its own, told as it happens, checked, and tidied up afterwards."""
