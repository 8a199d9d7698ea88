module example.com/wordcount

go 1.25

require flowkit v0.0.0

replace flowkit => ./flowkit
