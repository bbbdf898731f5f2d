// What each opcode does. One that is missing is refused by name, and is to be added here.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "ptx_thread.h"

namespace simt::ptx {
namespace {

// --- arithmetic -------------------------------------------------------------------------------------------------------

template <class T, auto f>
void unary(Thread& t, const Instruction& i) {
  t.set(i[0], f(t.get<T>(i[1])));
}
template <class T, auto f>
void binary(Thread& t, const Instruction& i) {
  t.set(i[0], f(t.get<T>(i[1]), t.get<T>(i[2])));
}
template <class T, auto f>
void ternary(Thread& t, const Instruction& i) {
  t.set(i[0], f(t.get<T>(i[1]), t.get<T>(i[2]), t.get<T>(i[3])));
}
template <class T>
void shift_left(Thread& t, const Instruction& i) {
  const auto by = t.get<uint32_t>(i[2]);
  t.set(i[0], by >= 8 * sizeof(T) ? T{0} : static_cast<T>(t.get<T>(i[1]) << by));
}
template <class T>
void shift_right(Thread& t, const Instruction& i) {
  const auto by = std::min<uint32_t>(t.get<uint32_t>(i[2]), 8 * sizeof(T) - 1), given = t.get<uint32_t>(i[2]);
  const T shifted = static_cast<T>(t.get<T>(i[1]) >> by);
  t.set(i[0], given > by && std::is_unsigned_v<T> ? T{0} : shifted);
}
// A register of two halves, from two registers or to two.
template <class T>
void pack(Thread& t, const Instruction& i) {
  constexpr int half = 4 * sizeof(T);
  t.set(i[0], static_cast<T>((t.get<T>(i[1]) & (~T{0} >> half)) | t.get<T>(i[2]) << half));
}
template <class T>
void unpack(Thread& t, const Instruction& i) {
  constexpr int half = 4 * sizeof(T);
  const T both = t.get<T>(i[2]);
  t.set(i[0], static_cast<T>(both & (~T{0} >> half)));
  t.set(i[1], static_cast<T>(both >> half));
}
template <class T>
void select(Thread& t, const Instruction& i) {
  t.set(i[0], t.get<bool>(i[3]) ? t.get<T>(i[1]) : t.get<T>(i[2]));
}
template <class T>
using Twice = std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>;
template <class T>
void multiply_wide(Thread& t, const Instruction& i) {
  t.set(i[0], static_cast<Twice<T>>(Twice<T>{t.get<T>(i[1])} * Twice<T>{t.get<T>(i[2])}));
}

// Integers wrap around: their arithmetic is that of 64 bits without a sign, of which the low ones are kept.
template <class T, auto f>
constexpr auto wrapping = [](auto... v) {
  if constexpr (std::is_floating_point_v<T>) return f(v...);
  else return static_cast<T>(f(static_cast<uint64_t>(v)...));
};

// --- 16-bit and tf32 numbers ------------------------------------------------------------------------------------------

float from_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float size = exponent == 31 ? (fraction ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity())
                     : exponent ? std::ldexp(static_cast<float>(1024 + fraction), exponent - 25)
                                : std::ldexp(static_cast<float>(fraction), -24);
  return bits >> 15 ? -size : size;
}

uint16_t to_half(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return 0x7fff;
  const float size = std::fabs(value);
  if (size >= 65520.0f) return sign | 0x7c00;
  int exponent = -14;
  if (size >= 0x1p-14f) exponent = std::ilogb(size);
  const auto units = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));  // ties to even
  return static_cast<uint16_t>(sign | ((exponent + 14) * 1024 + units));  // a carry reaches the exponent as it should
}

float from_bfloat16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

uint16_t to_bfloat16(float value) {
  if (std::isnan(value)) return 0x7fff;
  const auto bits = std::bit_cast<uint32_t>(value), low = bits & 0xffff, high = bits >> 16;
  return static_cast<uint16_t>(high + (low > 0x8000 || (low == 0x8000 && high % 2)));
}

uint32_t to_tf32(float value) {  // ties away from zero
  const auto bits = std::bit_cast<uint32_t>(value);
  return std::isfinite(value) ? (bits + 0x1000) & 0xffffe000 : bits;
}

template <class To, class From, auto f>
void convert(Thread& t, const Instruction& i) {
  t.set(i[0], f(t.get<From>(i[1])));
}

// --- memory instructions ----------------------------------------------------------------------------------------------

enum class Space { generic, global, shared, own };  // own: parameters and local memory

template <class T, Space space, bool cached>
void load(Thread& t, const Instruction& i) {
  const uint64_t address = t.address(i[i.width]);
  const size_t bytes = sizeof(T) * i.width;
  T values[4];
  if constexpr (space == Space::shared) {
    std::memcpy(values, t.shared(address, bytes), bytes);
  } else {
    if constexpr (space != Space::own) t.check_aligned(address, bytes);
    if (space == Space::global && t.memory) t.memory->load(values, address, bytes, cached);
    else std::memcpy(values, reinterpret_cast<const void*>(address), bytes);
  }
  for (int v = 0; v < i.width; ++v) {
    // what is narrower than the register is extended by its type
    if constexpr (std::is_integral_v<T> && sizeof(T) < 4) t.set(i[v], static_cast<Twice<T>>(values[v]));
    else t.set(i[v], values[v]);
  }
}

template <class T, Space space>
void store(Thread& t, const Instruction& i) {
  const uint64_t address = t.address(i[0]);
  const size_t bytes = sizeof(T) * i.width;
  T values[4];
  for (int v = 0; v < i.width; ++v) values[v] = t.get<T>(i[1 + v]);
  if constexpr (space == Space::shared) {
    std::memcpy(t.shared(address, bytes), values, bytes);
    return;
  }
  if constexpr (space != Space::own) t.check_aligned(address, bytes);
  if (space == Space::global && t.memory) return t.memory->store(address, values, bytes);
  if (space == Space::generic && machine.launch.shape.cluster > 1 && machine.random() % 4) {
    Pending p{reinterpret_cast<unsigned char*>(address), {}, bytes};
    std::memcpy(p.bytes, values, bytes);
    t.pending.push_back(p);
    return;
  }
  std::memcpy(reinterpret_cast<void*>(address), values, bytes);
}

// --- a warp's products ------------------------------------------------------------------------------------------------

struct Fragments {
  float c[4];
  uint32_t a[4], b[2];
};

float rounded_towards_zero(double value) {
  const auto nearest = static_cast<float>(value);
  return std::isfinite(nearest) && std::fabs(nearest) > std::fabs(value) ? std::nextafter(nearest, 0.0f) : nearest;
}

// The layouts are those of the PTX manual, "Matrix Fragments for mma.m16n8k16" and "for mma.m16n8k8".
template <auto element, int kPacked>
void multiply(uint32_t, void* const* lanes) {
  constexpr int K = 8 * kPacked;
  static float a[16][K], b[K][8], c[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& own = *static_cast<const Fragments*>(lanes[lane]);
    const int group = lane >> 2, in_group = lane % 4;
    for (int i = 0; i < 4 * kPacked; ++i) {
      const bool below = i / kPacked % 2, right = i / kPacked >= 2;
      a[group + 8 * below][in_group * kPacked + i % kPacked + (right ? K / 2 : 0)] = element(own.a[i / kPacked], i % kPacked);
    }
    for (int i = 0; i < 2 * kPacked; ++i)
      b[in_group * kPacked + i % kPacked + (i >= kPacked ? K / 2 : 0)][group] = element(own.b[i / kPacked], i % kPacked);
    for (int i = 0; i < 4; ++i) c[i < 2 ? group : group + 8][in_group * 2 + (i & 1)] = own.c[i];
  }
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 8; ++n)
      for (int k = 0; k < K; k += 8) {  // that many at a time, as hardware seems to add them
        double sum = c[m][n];
        for (int j = k; j < k + 8; ++j) sum += double{a[m][j]} * b[j][n];
        c[m][n] = rounded_towards_zero(sum);
      }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i)
      static_cast<Fragments*>(lanes[lane])->c[i] = c[(lane >> 2) + (i < 2 ? 0 : 8)][lane % 4 * 2 + (i & 1)];
}

template <auto element, int kPacked>
void warp_product(Thread& t, const Instruction& i) {
  Fragments own;
  for (int r = 0; r < 4; ++r) own.a[r] = t.get<uint32_t>(i[4 + r]), own.c[r] = t.get<float>(i[10 + r]);
  for (int r = 0; r < 2; ++r) own.b[r] = t.get<uint32_t>(i[8 + r]);
  warp_collective(i.text.c_str(), 0xffffffffu, &own, multiply<element, kPacked>);
  for (int r = 0; r < 4; ++r) t.set(i[r], own.c[r]);
}

float half_of(uint32_t reg, int i) { return from_half(static_cast<uint16_t>(reg >> 16 * i)); }
float bfloat16_of(uint32_t reg, int i) { return from_bfloat16(static_cast<uint16_t>(reg >> 16 * i)); }
float tf32_of(uint32_t reg, int) { return std::bit_cast<float>(reg & 0xffffe000u); }

// --- a warp's exchanges -----------------------------------------------------------------------------------------------

struct Lane {
  uint32_t value, other = 0;
  int source = 0;
};

// b: which lane; bounds: of the lane's segment, as the PTX manual has it under shfl.sync.
template <auto source>
void shuffle(Thread& t, const Instruction& i) {
  const bool said = i.operands.size() == 6;  // whether the source lies within, in a predicate
  const size_t from = said ? 2 : 1;
  const int lane = static_cast<int>(machine.current->thread % 32), bounds = t.get<int>(i[from + 2]);
  const int segment = bounds >> 8 & 31, last = (lane & segment) | (bounds & 31 & ~segment);
  int j = source(lane, t.get<int>(i[from + 1]) & 31, segment);
  const bool within = j <= last;
  if (!within) j = lane;
  Lane own{t.get<uint32_t>(i[from]), 0, j};
  warp_collective(i.text.c_str(), t.get<uint32_t>(i[from + 3]), &own, [](uint32_t, void* const* lanes) {
    for (int l = 0; l < 32; ++l) {
      auto* to = static_cast<Lane*>(lanes[l]);
      if (!to) continue;
      if (!lanes[to->source]) fault("a shuffle reads lane " + std::to_string(to->source) + ", which its mask does not name");
      to->other = static_cast<Lane*>(lanes[to->source])->value;
    }
  });
  t.set(i[0], own.other);
  if (said) t.set(i[1], within);
}

template <class T, auto outcome>
void vote(Thread& t, const Instruction& i) {
  Lane own{t.get<bool>(i[1])};
  const auto mask = t.get<uint32_t>(i[2]);
  warp_collective(i.text.c_str(), mask, &own, [](uint32_t, void* const* lanes) {
    uint32_t votes = 0;
    for (int l = 0; l < 32; ++l)
      if (lanes[l]) votes |= static_cast<Lane*>(lanes[l])->value << l;
    for (int l = 0; l < 32; ++l)
      if (lanes[l]) static_cast<Lane*>(lanes[l])->other = votes;
  });
  t.set(i[0], static_cast<T>(outcome(own.other, mask)));
}

void meet(Thread& t, const Instruction& i) {
  warp_collective(i.text.c_str(), t.get<uint32_t>(i[0]), nullptr, [](uint32_t, void* const*) {});
}

// Lanes 8j to 8j + 7 give the rows of matrix j.
template <int count>
void load_matrices(Thread& t, const Instruction& i) {
  struct Rows {
    const unsigned char* row;
    uint32_t got[count];
  } own{};
  if (machine.current->thread % 32 < 8 * count) own.row = t.shared(t.address(i[count]), 16);
  warp_collective(i.text.c_str(), 0xffffffffu, &own, [](uint32_t, void* const* lanes) {
    for (int l = 0; l < 32; ++l)
      for (int m = 0; m < count; ++m)
        std::memcpy(&static_cast<Rows*>(lanes[l])->got[m], static_cast<Rows*>(lanes[8 * m + l / 4])->row + l % 4 * 4, 4);
  });
  for (int m = 0; m < count; ++m) t.set(i[m], own.got[m]);
}

// --- meetings ---------------------------------------------------------------------------------------------------------

void barrier(Thread&, const Instruction&) { block_barrier(); }

void arrive(Thread& t, const Instruction&) {
  t.release_to_peers();
  if (t.memory) t.memory->release();
  cluster_arrive();
}

void wait(Thread& t, const Instruction&) {
  cluster_wait();
  if (t.memory) t.memory->acquire();
}

void add_and_release(Thread& t, const Instruction& i) {
  if (t.memory) t.memory->release();
  add_release(reinterpret_cast<unsigned*>(t.address(i[0])), t.get<unsigned>(i[1]));
}

void acquire(Thread& t, const Instruction& i) {
  t.set(i[0], load_acquire(reinterpret_cast<const unsigned*>(t.address(i[1]))));
  if (t.memory) t.memory->acquire();
}

// Relaxed: what was stored before it need not be seen by who sees it.
template <class T>
void add_atomically(Thread& t, const Instruction& i) {
  auto* place = reinterpret_cast<T*>(t.address(i[1]));
  const T before = *place;
  *place = before + t.get<T>(i[2]);
  machine.progress();
  machine.poll_flags();
  t.set(i[0], before);
}

void copy(Thread& t, const Instruction& i) {
  const auto bytes = t.get<int>(i[2]);
  copy_async(t.shared(t.address(i[0]), 1), reinterpret_cast<const void*>(t.address(i[1])), bytes);
}

void peer(Thread& t, const Instruction& i) {
  t.set(i[0], cluster_peer(t.get<unsigned char*>(i[1]), t.get<unsigned>(i[2])));
}

// Of 32 bits, the window of the cluster: the block's rank, and the place in its shared memory.
constexpr uint32_t kRankShift = 24;

void peer_in_window(Thread& t, const Instruction& i) {
  const auto place = t.get<uint32_t>(i[1]), rank = t.get<uint32_t>(i[2]);
  cluster_peer(t.shared(place, 1), rank);
  t.set(i[0], place | (rank + 1) << kRankShift);
}

void store_to_peer(Thread& t, const Instruction& i) {
  const auto place = static_cast<uint32_t>(t.address(i[0])), barrier = static_cast<uint32_t>(t.address(i[5]));
  if (place >> kRankShift != barrier >> kRankShift) fault(i.text + ": the barrier is of another block");
  if (place >> kRankShift == 0) fault(i.text + ": no address of the cluster's window");
  uint32_t values[4];
  for (int v = 0; v < 4; ++v) values[v] = t.get<uint32_t>(i[1 + v]);
  constexpr uint32_t kPlace = (1u << kRankShift) - 1;
  store_async(t.shared(place & kPlace, 16), values, t.shared(barrier & kPlace, 8), (place >> kRankShift) - 1);
}

void init_transfers(Thread& t, const Instruction& i) {
  if (t.get<int>(i[1]) != 1) fault(i.text + ": understood is one arrival a phase");
  transfer_init(t.shared(t.address(i[0]), 8));
}

void expect_transfers(Thread& t, const Instruction& i) {
  transfer_expect(t.shared(t.address(i[1]), 8), t.get<uint32_t>(i[2]));
}

void await_transfers(Thread& t, const Instruction& i) {
  transfer_wait(t.shared(t.address(i[1]), 8), t.get<uint32_t>(i[2]));
  t.set(i[0], true);
}

void from_shared(Thread& t, const Instruction& i) { t.set(i[0], t.shared(t.get<uint64_t>(i[1]), 1)); }
void to_shared(Thread& t, const Instruction& i) {
  t.set(i[0], kSharedStart + static_cast<uint64_t>(t.get<unsigned char*>(i[1]) - t.block.shared));
}

// --- opcodes ----------------------------------------------------------------------------------------------------------

template <class T>
struct Tag {};

// What `make` gives for the type of that name; null where it has none for it.
template <class F>
Run typed(std::string_view type, F&& make) {
  if (type == "u8" || type == "b8") return make(Tag<uint8_t>());
  if (type == "s8") return make(Tag<int8_t>());
  if (type == "u16" || type == "b16") return make(Tag<uint16_t>());
  if (type == "s16") return make(Tag<int16_t>());
  if (type == "u32" || type == "b32") return make(Tag<uint32_t>());
  if (type == "s32") return make(Tag<int32_t>());
  if (type == "u64" || type == "b64") return make(Tag<uint64_t>());
  if (type == "s64") return make(Tag<int64_t>());
  if (type == "f32") return make(Tag<float>());
  if (type == "f64") return make(Tag<double>());
  if (type == "pred") return make(Tag<bool>());
  return nullptr;
}

template <auto f>
Run binary_of(std::string_view type) {
  return typed(type, []<class T>(Tag<T>) -> Run {
    if constexpr (std::is_same_v<T, bool>) return nullptr;
    else return binary<T, wrapping<T, f>>;
  });
}

template <auto f>
Run bitwise_of(std::string_view type) {
  return typed(type, []<class T>(Tag<T>) -> Run {
    if constexpr (std::is_floating_point_v<T>) return nullptr;
    else return binary<T, [](T a, T b) { return static_cast<T>(f(a, b)); }>;
  });
}

// As written, signed ones signed.
template <auto f>
Run ordered_of(std::string_view type) {
  return typed(type, []<class T>(Tag<T>) -> Run { return binary<T, [](T a, T b) { return f(a, b); }>; });
}

constexpr auto divided = [](auto a, auto b) -> decltype(a) {
  if constexpr (!std::is_floating_point_v<decltype(a)>) {
    if (b == 0) fault("a division by zero");
    if (std::is_signed_v<decltype(a)> && b == static_cast<decltype(b)>(-1)) return static_cast<decltype(a)>(0 - static_cast<uint64_t>(a));
  }
  return static_cast<decltype(a)>(a / b);
};
constexpr auto remainder = [](auto a, auto b) -> decltype(a) {
  if constexpr (std::is_floating_point_v<decltype(a)>) return a;
  else {
    if (b == 0) fault("a division by zero");
    if (std::is_signed_v<decltype(a)> && b == static_cast<decltype(b)>(-1)) return 0;
    return static_cast<decltype(a)>(a % b);
  }
};
constexpr auto smaller = [](auto a, auto b) {
  if constexpr (std::is_floating_point_v<decltype(a)>) return std::fmin(a, b);
  else return std::min(a, b);
};
constexpr auto larger = [](auto a, auto b) {
  if constexpr (std::is_floating_point_v<decltype(a)>) return std::fmax(a, b);
  else return std::max(a, b);
};

// A comparison; those of floats that end in u hold for NaN as well.
Run comparison(std::string_view which, std::string_view type) {
  const auto of = [&]<class F>(F) {
    return typed(type, []<class T>(Tag<T>) -> Run { return binary<T, [](T a, T b) { return F()(a, b); }>; });
  };
  if (which == "eq") return of([](auto a, auto b) { return a == b; });
  if (which == "ne") return of([](auto a, auto b) { return a < b || a > b; });
  if (which == "lt") return of([](auto a, auto b) { return a < b; });
  if (which == "le") return of([](auto a, auto b) { return a <= b; });
  if (which == "gt") return of([](auto a, auto b) { return a > b; });
  if (which == "ge") return of([](auto a, auto b) { return a >= b; });
  if (which == "equ") return of([](auto a, auto b) { return !(a < b || a > b); });
  if (which == "neu") return of([](auto a, auto b) { return a != b; });
  if (which == "ltu") return of([](auto a, auto b) { return !(a >= b); });
  if (which == "leu") return of([](auto a, auto b) { return !(a > b); });
  if (which == "gtu") return of([](auto a, auto b) { return !(a <= b); });
  if (which == "geu") return of([](auto a, auto b) { return !(a < b); });
  return nullptr;
}

Run conversion(std::string_view opcode, std::string_view to, std::string_view from) {
  if (opcode == "cvt.rna.tf32.f32") return convert<uint32_t, float, to_tf32>;
  if (opcode == "cvt.rn.f16.f32") return convert<uint16_t, float, to_half>;
  if (opcode == "cvt.rn.bf16.f32") return convert<uint16_t, float, to_bfloat16>;
  if (opcode == "cvt.f32.f16") return convert<float, uint16_t, from_half>;
  if (opcode == "cvt.f32.bf16") return convert<float, uint16_t, from_bfloat16>;
  // A fraction becomes an integer by rounding, which no kernel asks for.
  return typed(to, [&]<class To>(Tag<To>) {
    return typed(from, []<class From>(Tag<From>) -> Run {
      if constexpr (std::is_integral_v<To> && std::is_floating_point_v<From>) return nullptr;
      else return convert<To, From, [](From value) { return static_cast<To>(value); }>;
    });
  });
}

template <Space space>
Run load_of(std::string_view type, bool cached) {
  return typed(type, [&]<class T>(Tag<T>) -> Run { return cached ? load<T, space, true> : load<T, space, false>; });
}

template <Space space>
Run store_of(std::string_view type) {
  return typed(type, []<class T>(Tag<T>) -> Run { return store<T, space>; });
}

}  // namespace

Run implementation(std::string_view opcode, Instruction& instruction) {
  std::vector<std::string_view> parts;
  for (std::string_view rest = opcode; !rest.empty();) {
    const size_t dot = std::min(rest.find('.'), rest.size());
    parts.push_back(rest.substr(0, dot));
    rest.remove_prefix(std::min(dot + 1, rest.size()));
  }
  const auto has = [&](std::string_view part) { return std::find(parts.begin(), parts.end(), part) != parts.end(); };
  const std::string_view op = parts.front(), type = parts.back(), second = parts.size() > 1 ? parts[1] : "";
  const bool fraction = type == "f32" || type == "f64";
  Run run = nullptr;
  if (has("v2")) instruction.width = 2;
  if (has("v4")) instruction.width = 4;

  if (op == "ret" || op == "exit") run = [](Thread& t, const Instruction&) { t.at = SIZE_MAX; };
  else if (op == "trap") run = [](Thread&, const Instruction&) { fault("trap"); };
  else if (op == "bra") run = [](Thread& t, const Instruction& i) { t.at = static_cast<size_t>(i[0].number); };
  else if (op == "mov" && instruction.operands.size() > 2) {
    const bool from = instruction.text.find('{') > instruction.text.find(',');
    if (opcode == "mov.b32") run = from ? pack<uint32_t> : unpack<uint32_t>;
    if (opcode == "mov.b64") run = from ? pack<uint64_t> : unpack<uint64_t>;
  } else if (op == "mov" || opcode == "cvta.to.global.u64" || opcode == "cvta.global.u64")
    run = typed(type, []<class T>(Tag<T>) -> Run { return unary<T, [](T v) { return v; }>; });
  else if (opcode == "cvta.shared.u64") run = from_shared;
  else if (opcode == "cvta.to.shared.u64") run = to_shared;
  else if (op == "add") run = binary_of<[](auto a, auto b) { return a + b; }>(type);
  else if (op == "sub") run = binary_of<[](auto a, auto b) { return a - b; }>(type);
  else if (op == "mul" && (second == "lo" || fraction)) run = binary_of<[](auto a, auto b) { return a * b; }>(type);
  else if (opcode == "mul.wide.s32") run = multiply_wide<int32_t>;
  else if (opcode == "mul.wide.u32") run = multiply_wide<uint32_t>;
  else if (op == "mad" && second == "lo")
    run = typed(type, []<class T>(Tag<T>) -> Run {
      if constexpr (std::is_same_v<T, bool>) return nullptr;
      else return ternary<T, wrapping<T, [](auto a, auto b, auto c) { return a * b + c; }>>;
    });
  else if (opcode == "fma.rn.f32") run = ternary<float, [](float a, float b, float c) { return std::fma(a, b, c); }>;
  else if (opcode == "fma.rn.f64") run = ternary<double, [](double a, double b, double c) { return std::fma(a, b, c); }>;
  else if (opcode == "rcp.rn.f32") run = unary<float, [](float v) { return 1.0f / v; }>;
  else if (opcode == "rcp.rn.f64") run = unary<double, [](double v) { return 1.0 / v; }>;
  else if (op == "div" && (second == "rn" || !fraction)) run = ordered_of<divided>(type);
  else if (op == "rem") run = ordered_of<remainder>(type);
  else if (op == "min") run = ordered_of<smaller>(type);
  else if (op == "max") run = ordered_of<larger>(type);
  else if (opcode == "clz.b32")
    run = unary<uint32_t, [](uint32_t v) { return static_cast<uint32_t>(std::countl_zero(v)); }>;
  else if (op == "neg")
    run = typed(type, []<class T>(Tag<T>) -> Run { return unary<T, wrapping<T, [](auto v) { return -v; }>>; });
  else if (op == "abs")
    run = typed(type, []<class T>(Tag<T>) -> Run {
      if constexpr (std::is_floating_point_v<T>) return unary<T, [](T v) { return std::fabs(v); }>;
      else return unary<T, [](T v) { return v < T{} ? static_cast<T>(-v) : v; }>;
    });
  else if (op == "and") run = bitwise_of<[](auto a, auto b) { return a & b; }>(type);
  else if (op == "or") run = bitwise_of<[](auto a, auto b) { return a | b; }>(type);
  else if (op == "xor") run = bitwise_of<[](auto a, auto b) { return a ^ b; }>(type);
  else if (op == "not")
    run = typed(type, []<class T>(Tag<T>) -> Run {
      if constexpr (std::is_same_v<T, bool>) return unary<bool, [](bool v) { return !v; }>;
      else if constexpr (std::is_floating_point_v<T>) return nullptr;
      else return unary<T, [](T v) { return static_cast<T>(~v); }>;
    });
  else if (op == "shl" || op == "shr")
    run = typed(type, [&]<class T>(Tag<T>) -> Run {
      if constexpr (std::is_floating_point_v<T> || std::is_same_v<T, bool>) return nullptr;
      else return op == "shl" ? shift_left<T> : shift_right<T>;
    });
  else if (op == "setp" && parts.size() == 3) run = comparison(second, type);
  else if (op == "selp") run = typed(type, []<class T>(Tag<T>) -> Run { return select<T>; });
  else if (op == "cvt" && parts.size() >= 3) run = conversion(opcode, parts[parts.size() - 2], type);
  else if (opcode == "ld.acquire.gpu.global.u32") run = acquire;
  else if (op == "ld" && !has("acquire") && !has("volatile") && !has("relaxed")) {
    if (second == "param" || second == "local") run = load_of<Space::own>(type, false);
    else if (second == "shared") run = load_of<Space::shared>(type, false);
    else if (second == "global") run = load_of<Space::global>(type, !has("cg"));
    else if (second == type || instruction.width > 1) run = load_of<Space::generic>(type, false);
  } else if (op == "st" && !has("async") && !has("release") && !has("volatile") && !has("relaxed")) {
    if (second == "local") run = store_of<Space::own>(type);
    else if (second == "shared") run = store_of<Space::shared>(type);
    else if (second == "global") run = store_of<Space::global>(type);
    else if (second == type || instruction.width > 1) run = store_of<Space::generic>(type);
  } else if (opcode == "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32") run = warp_product<half_of, 2>;
  else if (opcode == "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32") run = warp_product<bfloat16_of, 2>;
  else if (opcode == "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32") run = warp_product<tf32_of, 1>;
  else if (opcode == "bar.sync") run = barrier;
  else if (opcode == "barrier.cluster.arrive.release") run = arrive;
  else if (opcode == "barrier.cluster.wait.acquire") run = wait;
  else if (opcode == "mapa.u64") run = peer;
  else if (opcode == "mapa.shared::cluster.u32") run = peer_in_window;
  else if (opcode == "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32") run = store_to_peer;
  else if (opcode == "mbarrier.init.shared::cta.b64") run = init_transfers;
  else if (opcode == "fence.mbarrier_init.release.cluster") run = [](Thread&, const Instruction&) {};
  else if (opcode == "mbarrier.arrive.expect_tx.shared::cta.b64") run = expect_transfers;
  else if (opcode == "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64") run = await_transfers;
  else if (opcode == "red.release.gpu.global.add.u32") run = add_and_release;
  else if (opcode == "shfl.sync.idx.b32") run = shuffle<[](int lane, int b, int segment) { return (lane & segment) | (b & ~segment); }>;
  else if (opcode == "shfl.sync.bfly.b32") run = shuffle<[](int lane, int b, int) { return lane ^ b; }>;
  else if (opcode == "shfl.sync.down.b32") run = shuffle<[](int lane, int b, int) { return lane + b; }>;
  else if (opcode == "vote.sync.ballot.b32") run = vote<uint32_t, [](uint32_t votes, uint32_t) { return votes; }>;
  else if (opcode == "vote.sync.any.pred") run = vote<bool, [](uint32_t votes, uint32_t) { return votes != 0; }>;
  else if (opcode == "vote.sync.all.pred") run = vote<bool, [](uint32_t votes, uint32_t mask) { return votes == mask; }>;
  else if (opcode == "bar.warp.sync") run = meet;
  else if (opcode == "ldmatrix.sync.aligned.m8n8.x4.shared.b16") run = load_matrices<4>;
  else if (opcode == "ldmatrix.sync.aligned.m8n8.x2.shared.b16") run = load_matrices<2>;
  else if (opcode == "atom.global.add.u32") run = add_atomically<uint32_t>;
  else if (opcode == "atom.global.add.f32") run = add_atomically<float>;
  else if (opcode == "cp.async.ca.shared.global" || opcode == "cp.async.cg.shared.global") run = copy;
  else if (opcode == "cp.async.commit_group") run = [](Thread&, const Instruction&) { copy_async_commit(); };
  else if (opcode == "cp.async.wait_group")
    run = [](Thread& t, const Instruction& i) { copy_async_wait(t.get<int>(i[0])); };
  else if (opcode == "prefetch.global.L2") run = [](Thread&, const Instruction&) {};
  else if (opcode == "nanosleep.u32") run = [](Thread&, const Instruction&) {};
  if (!run) throw std::runtime_error("PTX: the interpreter does not know " + std::string(opcode));
  return run;
}

}  // namespace simt::ptx
