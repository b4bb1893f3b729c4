// Vectors of the widest instructions that this is compiled for, on rows of channels of any number.
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>

namespace raymeta {

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif

template <class T> struct Lanes {
    static constexpr long count = BYTES / sizeof(T);
    using Number = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
    typedef T V __attribute__((vector_size(BYTES)));
    typedef Number I __attribute__((vector_size(BYTES)));
    typedef std::uint8_t Codes __attribute__((vector_size(BYTES / sizeof(T))));
};

template <class T> using V = typename Lanes<T>::V;
template <class T> using I = typename Lanes<T>::I;

// Reads and writes vectors wherever they start: whole ones, or the last channels of a row, which do not fill one. Of
// those what is not there reads as 0 and is not written.
template <bool WHOLE> struct Access {
    long left = 0;
    template <class T> long lanes() const { return WHOLE ? Lanes<T>::count : left; }
    template <class T> V<T> load(const T* p) const {
        V<T> v = {};
        std::memcpy(&v, p, lanes<T>() * sizeof(T));
        return v;
    }
    template <class T> void store(T* p, V<T> v) const { std::memcpy(p, &v, lanes<T>() * sizeof(T)); }
    template <class T> I<T> load_codes(const std::uint8_t* p) const {
        typename Lanes<T>::Codes c = {};
        std::memcpy(&c, p, lanes<T>());
        return __builtin_convertvector(c, I<T>);
    }
    template <class T> void store_codes(std::uint8_t* p, I<T> v) const {
        auto c = __builtin_convertvector(v, typename Lanes<T>::Codes);
        std::memcpy(p, &c, lanes<T>());
    }
};
using Whole = Access<true>;
using Rest = Access<false>;

// f(first channel, how to read and write there) for every vector of channels
template <class T, class F> inline __attribute__((always_inline)) void channels(long count, F f) {
    long c = 0;
    for (; c + Lanes<T>::count <= count; c += Lanes<T>::count) f(c, Whole{});
    if (c < count) f(c, Rest{count - c});
}

template <class T> constexpr long padded(long count) {
    return (count + Lanes<T>::count - 1) / Lanes<T>::count * Lanes<T>::count;
}

constexpr long BLOCK = 64;  // terms of a sum in T, before it is added to one in double

// out[k][c] += what f(at, place, channel, acc) adds to acc[k], summed over places
template <int K, class T, class F> void sums(long places, long count, double* out, F f) {
    for (long first = 0; first < places; first += BLOCK) {
        long end = first + BLOCK < places ? first + BLOCK : places;
        channels<T>(count, [&](long c, auto at) {
            V<T> acc[K] = {};
            for (long p = first; p < end; p++) f(at, p, c, acc);
            for (int k = 0; k < K; k++)
                for (long i = 0; i < at.template lanes<T>(); i++) out[k * count + c + i] += acc[k][i];
        });
    }
}

// Memory of a call that is kept for the thread's next one: nothing is shared, in threads or after forks.
class Scratch {
   public:
    explicit Scratch(long bytes) {
        if (bytes + 64 > size) {
            memory.reset();
            memory.reset(new char[bytes + 64]);
            size = bytes + 64;
        }
        next = memory.get() + (64 - reinterpret_cast<std::uintptr_t>(memory.get()) % 64) % 64;
    }
    template <class T> T* take(long count) {
        T* taken = reinterpret_cast<T*>(next);
        next += (count * sizeof(T) + 63) / 64 * 64;
        return taken;
    }

   private:
    static inline thread_local std::unique_ptr<char[]> memory;
    static inline thread_local long size = 0;
    char* next;
};

}  // namespace raymeta
