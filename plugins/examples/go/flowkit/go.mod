module flowkit

go 1.25
