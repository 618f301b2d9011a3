"""Makes a CA, and certificates of a server and of a client with their keys: certificates.py FOLDER."""

import os
import sys

import trustme

folder = sys.argv[1]
ca = trustme.CA()
ca.cert_pem.write_to_path(os.path.join(folder, "ca.pem"))
for name, certificate in [("server", ca.issue_cert("localhost", "127.0.0.1")), ("client", ca.issue_cert("client@example.com"))]:
    certificate.private_key_and_cert_chain_pem.write_to_path(os.path.join(folder, f"{name}.pem"))
