"""hoop's HTTP API in front of the two kinds: `hoop-operator serve`.

It writes objects as whoever asks and waits for what the operator says of them. The operator does the work.

    server      the process
    connections what a client may owe, and how long
    app         routes, and what the OpenAPI document says
    middleware  what holds for every request: its id, its size, who may knock, the access log
    wire        what hoop's clients send and are sent
    resources   HoopResources: make, find, replace
    env_vars    their credentials, and the Secrets that hold these
    health      what the operator found of them
    deletion    their end
    plans       HoopRolePlans: plan
    applying    and apply
    waiting     until the operator has answered
    problems    what is answered where something is wrong
"""
