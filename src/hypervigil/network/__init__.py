"""The three layers of the virtual network: who shares a segment, what the firewall lets pass, what is routed where.

``decide`` is the specification: whether one end may begin a conversation with another, and which rule of which layer
says so. ``compile`` brings the same to the form that the data plane looks up. Pure: it never sees a packet or a kernel.
"""
