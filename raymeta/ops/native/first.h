// The first block on images: y = pool(act(w . patch + shift)), the norm being part of w and shift, and its gradients.
//
// Neither patches nor the convolution's result are ever written down. Images are [N][channels][H][W] with their zeros
// around them, w is [3 * 3 * channels][C]. For given codes y is linear in w and shift. Codes are those of tail.h.
#pragma once
#include "tail.h"

namespace raymeta {

struct Images {
    long n, channels, h, w;  // with the zeros around
    long taps() const { return 9 * channels; }
    // From the first number of a window to that of its tap k, in w's order: row, column, channel
    std::unique_ptr<long[]> offsets() const {
        auto found = std::make_unique<long[]>(taps());
        for (long k = 0; k < taps(); k++) found[k] = k % channels * h * w + k / channels / 3 * w + k / channels % 3;
        return found;
    }
    Tail results(long c, bool pool, double slope) const { return {n, h - 2, w - 2, c, pool, slope}; }
};

// Where the patch of the first corner of each result's window starts in the images
template <int SIDE> std::unique_ptr<long[]> starts(const Images& x, const Tail& s) {
    auto found = std::make_unique<long[]>(s.results());
    windows<SIDE>(s, [&](long result, long place) {
        long n = place / (s.h * s.w), in = place % (s.h * s.w);
        found[result] = n * x.channels * x.h * x.w + in / s.w * x.w + in % s.w;
    });
    return found;
}

// COUNT vectors of channels from c on: y and codes; or, with codes GIVEN, what is picked, through the activation.
template <class T, int SIDE, int COUNT, bool GIVEN>
void first_columns(const Images& x, const Tail& s, const long* starts, const long* offsets, const T* images, long c,
                   const T* w, const T* shift, T* y, std::uint8_t* codes) {
    constexpr long L = Lanes<T>::count;
    constexpr int CORNERS = SIDE * SIDE;
    T slope = s.slope;
    long row = padded<T>(s.c), corner[CORNERS];
    for (int i = 0; i < CORNERS; i++) corner[i] = i / SIDE * x.w + i % SIDE;
    for (long result = 0; result < s.results(); result++) {
        const T* q = images + starts[result];
        V<T> acc[COUNT][CORNERS];
        for (int v = 0; v < COUNT; v++)
            for (int i = 0; i < CORNERS; i++) acc[v][i] = Whole{}.load(shift + c + v * L);
        for (long k = 0; k < x.taps(); k++) {
            const T *p = q + offsets[k], *weights = w + k * row + c;
#pragma GCC unroll 4
            for (int v = 0; v < COUNT; v++) {
                V<T> weight = Whole{}.load(weights + v * L);
#pragma GCC unroll 4
                for (int i = 0; i < CORNERS; i++) acc[v][i] += weight * p[corner[i]];
            }
        }
#pragma GCC unroll 4
        for (int v = 0; v < COUNT; v++) {
            long from = c + v * L, o = result * s.c + from;
            auto write = [&](auto at) {
                V<T> best = acc[v][0];
                I<T> code = {};
                if (GIVEN) {
                    code = at.template load_codes<T>(codes + o);
                    for (int i = 1; i < CORNERS; i++) best = (code & (OFF - 1)) == i ? acc[v][i] : best;
                    at.store(y + o, through<T>(best, code, slope));
                    return;
                }
                for (int i = 1; i < CORNERS; i++) {
                    I<T> larger = (acc[v][i] > best) | (acc[v][i] != acc[v][i]);
                    best = larger ? acc[v][i] : best, code = larger ? I<T>{} + i : code;
                }
                I<T> off = best <= 0;
                at.store(y + o, off ? (slope == 0 ? V<T>{} : slope * best) : best);
                if (codes) at.template store_codes<T>(codes + o, code | (off & OFF));
            };
            s.c - from >= L ? write(Whole{}) : write(Rest{s.c - from});
        }
    }
}

template <class T, int SIDE, bool GIVEN>
void first(const Images& x, const Tail& s, const T* images, const T* w, const T* shift, T* y, std::uint8_t* codes) {
    constexpr long L = Lanes<T>::count, MOST = BYTES == 64 ? 4 : 2;
    long row = padded<T>(s.c);
    auto offsets = x.offsets(), places = starts<SIDE>(x, s);
    auto all = std::make_unique<T[]>((x.taps() + 1) * row);
    for (long k = 0; k < x.taps(); k++) std::memcpy(all.get() + k * row, w + k * s.c, sizeof(T) * s.c);
    T* shifts = all.get() + x.taps() * row;
    std::memcpy(shifts, shift, sizeof(T) * s.c);
    long c = 0;
    for (; c + MOST * L <= row; c += MOST * L)
        first_columns<T, SIDE, MOST, GIVEN>(x, s, places.get(), offsets.get(), images, c, all.get(), shifts, y, codes);
    for (; c < row; c += L)
        first_columns<T, SIDE, 1, GIVEN>(x, s, places.get(), offsets.get(), images, c, all.get(), shifts, y, codes);
}

// For dy the gradients of w, [taps][C], and shift, [C]
template <class T, int SIDE>
void first_back(const Images& x, const Tail& s, const T* images, const T* dy, const std::uint8_t* codes, T* w,
                T* shift) {
    constexpr int TAPS = 9, CORNERS = SIDE * SIDE;  // of a channel
    T slope = s.slope;
    auto places = starts<SIDE>(x, s);
    auto total = std::make_unique<double[]>((TAPS + 1) * s.c);
    double* of_shift = total.get() + TAPS * s.c;
    for (long channel = 0; channel < x.channels; channel++) {
        std::memset(total.get(), 0, sizeof(double) * (TAPS + 1) * s.c);
        sums<TAPS + 1, T>(s.results(), s.c, total.get(), [&](auto at, long p, long c, V<T>* acc) {
            const T *q = images + places[p] + channel * x.h * x.w, *rows[SIDE + 2];
            for (int i = 0; i < SIDE + 2; i++) rows[i] = q + i * x.w;
            I<T> code = at.template load_codes<T>(codes + p * s.c + c), which = code & (OFF - 1);
            V<T> from = through<T>(at.load(dy + p * s.c + c), code, slope), part[CORNERS];
            for (int i = 0; i < CORNERS; i++) part[i] = which == i ? from : V<T>{};
#pragma GCC unroll 9
            for (int t = 0; t < TAPS; t++)
#pragma GCC unroll 4
                for (int i = 0; i < CORNERS; i++) acc[t] += part[i] * rows[t / 3 + i / SIDE][t % 3 + i % SIDE];
            acc[TAPS] += from;
        });
        for (long o = 0; o < TAPS * s.c; o++) w[(o / s.c * x.channels + channel) * s.c + o % s.c] = total[o];
    }
    for (long c = 0; c < s.c; c++) shift[c] = of_shift[c];
}

// Over all places the sums of taps, [taps], and of their products, [taps][taps]
template <class T> void moments(const Images& x, const T* images, double* of_taps, double* of_products) {
    constexpr long ROWS = 16, L = Lanes<T>::count;
    long taps = x.taps(), height = x.h - 2, width = x.w - 2, sums = taps + taps * taps;
    auto offsets = x.offsets();
    auto values = std::make_unique<T[]>((sums + taps) * L);  // by lane; first for so many rows, then in double
    auto wide = std::make_unique<double[]>(sums * L);
    T *single = values.get(), *pairs = single + taps * L, *now = single + sums * L;
    const Whole whole;
    for (long first = 0; first < x.n * height; first += ROWS) {
        long last = first + ROWS < x.n * height ? first + ROWS : x.n * height;
        for (long row = first; row < last; row++) {
            const T* from = images + row / height * x.channels * x.h * x.w + row % height * x.w;
            auto add = [&](long j, auto at, I<T> counted) {
                for (long k = 0; k < taps; k++) {
                    V<T> one = counted ? at.load(from + offsets[k] + j) : V<T>{};
                    whole.store(now + k * L, one);
                    whole.store(single + k * L, whole.load(single + k * L) + one);
                    for (long l = 0; l <= k; l++) {
                        T* sum = pairs + (k * taps + l) * L;
                        whole.store(sum, whole.load(sum) + one * whole.load(now + l * L));
                    }
                }
            };
            I<T> all = I<T>{} == 0, last_ones = all;  // a row's last vector goes back over what was counted
            for (long i = 0; i < L - width % L; i++) last_ones[i] = 0;
            for (long j = 0; j + L <= width; j += L) add(j, whole, all);
            if (width < L)
                add(0, Rest{width}, all);
            else if (width % L)
                add(width - L, whole, last_ones);
        }
        for (long i = 0; i < sums * L; i++) wide[i] += single[i], single[i] = 0;
    }
    std::memset(of_taps, 0, sizeof(double) * taps);
    std::memset(of_products, 0, sizeof(double) * taps * taps);
    for (long i = 0; i < L; i++) {
        for (long k = 0; k < taps; k++) of_taps[k] += wide[k * L + i];
        for (long k = 0; k < taps; k++)
            for (long l = 0; l < taps; l++)
                of_products[k * taps + l] += wide[(taps + (k > l ? k * taps + l : l * taps + k)) * L + i];
    }
}

// A norm by the maps' own moments as part of w and shift. Mean and covariance of patches are m and C; for every channel
//   I = 1/sqrt(w.Cw + eps);   matrix = scale I w,   offset = shift - scale I m.w
// and for cotangents p of the matrix and q of the offset, with r = p - q m and t = r.w,
//   of scale = I t,   of shift = q,   of w = scale (I r - I^3 t Cw)
struct Fold {
    long taps, c;
    double eps;
    template <class F> void each(F f) const {
        for (long k = 0; k < taps; k++)
            for (long channel = 0; channel < c; channel++) f(k, channel, k * c + channel);
    }
};

// C w, [taps][c]
template <class T> std::unique_ptr<double[]> spread_by(const Fold& s, const T* covariance, const T* w) {
    auto found = std::make_unique<double[]>(s.taps * s.c);
    for (long k = 0; k < s.taps; k++)
        s.each([&](long l, long c, long o) { found[k * s.c + c] += double(covariance[k * s.taps + l]) * w[o]; });
    return found;
}

// a.b for every channel; with ONE a has a single column for all of them
template <bool ONE = false, class A, class B> std::unique_ptr<double[]> dot(const Fold& s, const A* a, const B* b) {
    auto found = std::make_unique<double[]>(s.c);
    s.each([&](long k, long c, long o) { found[c] += double(ONE ? a[k] : a[o]) * b[o]; });
    return found;
}

template <class T>
void fold(const Fold& s, const T* mean, const T* covariance, const T* w, const T* scale, const T* shift, T* matrix,
          T* offset, double* inverse) {
    auto cw = spread_by(s, covariance, w), variance = dot(s, cw.get(), w), level = dot<true>(s, mean, w);
    for (long c = 0; c < s.c; c++) {
        inverse[c] = 1 / std::sqrt((variance[c] < 0 ? 0 : variance[c]) + s.eps);
        offset[c] = shift[c] - scale[c] * inverse[c] * level[c];
    }
    s.each([&](long, long c, long o) { matrix[o] = scale[c] * inverse[c] * w[o]; });
}

// r = p - q m
template <class T> std::unique_ptr<double[]> rest_of(const Fold& s, const T* mean, const T* p, const T* q) {
    auto found = std::make_unique<double[]>(s.taps * s.c);
    s.each([&](long k, long c, long o) { found[o] = p[o] - double(q[c]) * mean[k]; });
    return found;
}

template <class T>
void fold_back(const Fold& s, const T* mean, const T* covariance, const T* w, const T* scale, const double* inverse,
               const T* p, const T* q, T* of_w, T* of_scale) {
    auto cw = spread_by(s, covariance, w), r = rest_of(s, mean, p, q), t = dot(s, r.get(), w);
    for (long c = 0; c < s.c; c++) of_scale[c] = inverse[c] * t[c];
    s.each([&](long, long c, long o) {
        of_w[o] = scale[c] * inverse[c] * (r[o] - inverse[c] * inverse[c] * t[c] * cw[o]);
    });
}

// For cotangents uw and us of what `fold_back` gives (null: 0) the gradients of p, q, w and scale: those of
// scale (I uw.r - I^3 t e) + us I t, with e = uw.Cw
template <class T>
void fold_twice(const Fold& s, const T* mean, const T* covariance, const T* w, const T* scale, const double* inverse,
                const T* p, const T* q, const T* uw, const T* us, T* of_p, T* of_q, T* of_w, T* of_scale) {
    auto zeros = std::make_unique<T[]>(s.taps * s.c);
    uw = uw ? uw : zeros.get(), us = us ? us : zeros.get();
    auto cw = spread_by(s, covariance, w), cu = spread_by(s, covariance, uw), r = rest_of(s, mean, p, q);
    auto t = dot(s, r.get(), w), e = dot(s, cw.get(), uw), d = dot(s, r.get(), uw);
    auto slant = std::make_unique<double[]>(s.c), bend = std::make_unique<double[]>(s.c);
    for (long c = 0; c < s.c; c++) {
        double i = inverse[c], cube = i * i * i, g = scale[c];
        of_scale[c] = i * d[c] - cube * t[c] * e[c];
        slant[c] = us[c] * i - g * cube * e[c];
        bend[c] = -cube * (g * d[c] - 3 * g * i * i * t[c] * e[c] + us[c] * t[c]);
    }
    s.each([&](long, long c, long o) {
        double i = inverse[c], g = scale[c];
        of_p[o] = g * i * uw[o] + slant[c] * w[o];
        of_w[o] = bend[c] * cw[o] - g * i * i * i * t[c] * cu[o] + slant[c] * r[o];
    });
    auto level = dot<true>(s, mean, of_p);
    for (long c = 0; c < s.c; c++) of_q[c] = -level[c];
}

}  // namespace raymeta
