"""The web page of the service: what happens in a space, server-rendered, for a person who looks.

Each page is one function of the call that returns what its template shows.  A browser signs in with
a token, which a cookie keeps; forms carry a mark that only pages of this server know.
"""
