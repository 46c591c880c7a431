// One piece of a net, see piece.hpp.
#include "conv.hpp"
#include "norm.hpp"
#include "piece.hpp"
#include "simple.hpp"

namespace golf {
template <class In, class Other, class Out, int OTHER>
constexpr bool IS_SUM<Add<In, Other, Out, OTHER>> = true;
}  // namespace golf

#include GOLF_NET  // generated: `constexpr auto PIECE = ...`

extern "C" {
extern const decltype(golf::PIECE) golf_piece;
const decltype(golf::PIECE) golf_piece = golf::PIECE;
}
