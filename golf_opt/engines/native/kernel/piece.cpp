// One piece of a net, see piece.hpp.
#include "pieces.hpp"

#include GOLF_NET  // generated: `constexpr auto PIECE = ...`

extern "C" __attribute__((visibility("default"))) const decltype(golf::PIECE) golf_piece;
const decltype(golf::PIECE) golf_piece = golf::PIECE;
