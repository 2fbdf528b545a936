package defendertest

// ServeControl is the control API without a socket.
var ServeControl = (*Server).serveControl
