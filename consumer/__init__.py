"""The long-lived service: from a landed object to a verdict, and the commands around it."""
