// All that pieces are made of. It is compiled by itself, once, for those that follow: a third of the
// time that a piece takes is reading it.
#pragma once

#include "conv.hpp"
#include "norm.hpp"
#include "piece.hpp"
#include "simple.hpp"
