"""Brings the portal's database up to date with a customer's export of F5 devices.

`main.run` is the only entry point; what is in `steps` is internal.

Environment (the executor hides both from runs unless `PASS_ENV` names them, as `PASS_ENV=F5_SOURCE,F5_PORTAL_DB`
or `PASS_ENV=F5_*` does):

- `F5_SOURCE`: a directory, or an `http://` or `https://` URL, that holds `customer_{id}.csv` for each customer.
  Unset or empty: the samples of this package, which know the customers 1, 2 and 3.
- `F5_PORTAL_DB`: the SQLite file of the portal, made if missing. Default: `data/f5_portal.db`, relative to the
  working directory.
"""
