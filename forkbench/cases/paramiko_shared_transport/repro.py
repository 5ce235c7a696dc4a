#!/usr/bin/env python3
"""the parent's SSH connection is used in the child

https://github.com/paramiko/paramiko
library: paramiko (5.1.0)   expect: hang
mechanism: nothing: the transport's thread
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import paramiko, socket
key = paramiko.RSAKey.generate(1024)
class Server(paramiko.ServerInterface):
    def check_auth_password(self, u, p): return paramiko.AUTH_SUCCESSFUL
    def get_allowed_auths(self, u): return "password"
    def check_channel_request(self, k, i): return paramiko.OPEN_SUCCEEDED
    def check_channel_exec_request(self, ch, cmd):
        def reply(): time.sleep(0.1); ch.send(b"out"); ch.send_exit_status(0); ch.close()
        thread(reply); return True
s = socket.create_server(("127.0.0.1", 0)); keep = []
def serve():
    while True:
        t = paramiko.Transport(s.accept()[0]); t.add_server_key(key); t.start_server(server=Server()); keep.append(t)
thread(serve)
client = paramiko.SSHClient(); client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect("127.0.0.1", s.getsockname()[1], "u", "p", look_for_keys=False, allow_agent=False)
def command(): _, out, _ = client.exec_command("true"); return out.read()
assert command() == b"out"; time.sleep(0.3)
run_child(command)
