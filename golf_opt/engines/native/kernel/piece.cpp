// One piece of a net, see piece.hpp.
#include "pieces.hpp"

#define PIECE(name, of)                                                        \
    extern "C" __attribute__((visibility("default"))) const decltype(of) name; \
    const decltype(of) name = of;

#include GOLF_NET  // generated: `PIECE(golf_forward, forward_of<...>())` and so on
