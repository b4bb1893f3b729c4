// What follows a convolution: y = pool(act(z_hat * scale + shift)), its gradients, and theirs.
//
// z_hat = (z - mean) * inverse, by z's own mean and 1/sqrt(variance + eps), or with mean 0 and inverse 1 where scale
// and shift are the whole norm (`places` 0). Pooling takes the first of the largest of 2x2, before the activation,
// which keeps the order. A result has a code: which of the four, plus OFF where the activation's slope is not 1; and
// its z_hat is kept, `picked`.
#pragma once
#include <cmath>
#include <vector>
#include "lanes.h"

namespace raymeta {

constexpr int OFF = 4;

struct Tail {
    long n, h, w, c;
    bool pool;
    double slope;  // of the activation below 0: 0, 0.01, or 1 for none
    long places() const { return n * h * w; }
    long results() const { return pool ? n * (h / 2) * (w / 2) : places(); }
};

// f(result, the place of its window's first corner) for all, in order
template <int SIDE, class F> inline __attribute__((always_inline)) void windows(const Tail& s, F f) {
    long result = 0;
    for (long n = 0; n < s.n; n++)
        for (long i = 0; i + SIDE <= s.h; i += SIDE)
            for (long j = 0; j + SIDE <= s.w; j += SIDE) f(result++, (n * s.h + i) * s.w + j);
}

// f(place) for those that no window has: the last row and column of odd sides
template <int SIDE, class F> void beyond(const Tail& s, F f) {
    for (long n = 0; n < s.n; n++)
        for (long i = 0; i < s.h; i++)
            for (long j = i < s.h / SIDE * SIDE ? s.w / SIDE * SIDE : 0; j < s.w; j++) f((n * s.h + i) * s.w + j);
}

template <class T, int SIDE> struct Corners {
    static constexpr int count = SIDE * SIDE;
    long at[count];
    explicit Corners(const Tail& s) {
        for (int k = 0; k < count; k++) at[k] = (k / SIDE * s.w + k % SIDE) * s.c;
    }
};

// Mean and 1/sqrt(variance + eps) by channel. One pass: what is summed is z less the first image's mean, so that
// squares are not much larger than the variance.
template <class T> void statistics(const Tail& s, const T* z, double eps, T* mean, T* inverse) {
    auto total = std::make_unique<double[]>(3 * s.c);
    auto pivot = std::make_unique<T[]>(s.c);
    double *first = total.get() + 2 * s.c, count = s.places();
    sums<1, T>(s.h * s.w, s.c, first, [&](auto at, long p, long c, V<T>* acc) { acc[0] += at.load(z + p * s.c + c); });
    for (long c = 0; c < s.c; c++) pivot[c] = first[c] / (s.h * s.w);
    sums<2, T>(s.places(), s.c, total.get(), [&](auto at, long p, long c, V<T>* acc) {
        V<T> d = at.load(z + p * s.c + c) - at.load(pivot.get() + c);
        acc[0] += d, acc[1] += d * d;
    });
    for (long c = 0; c < s.c; c++) {
        double d = total[c] / count, variance = total[s.c + c] / count - d * d;
        mean[c] = pivot[c] + d, inverse[c] = 1 / std::sqrt((variance > 0 || variance != variance ? variance : 0) + eps);
    }
}

// y, and for a backward pass codes and what was picked (null: not kept)
template <class T, int SIDE>
void tail(const Tail& s, const T* z, const T* mean, const T* inverse, const T* scale, const T* shift, T* y,
          std::uint8_t* codes, T* picked) {
    Corners<T, SIDE> corners(s);
    auto slopes = std::make_unique<T[]>(s.c);
    for (long c = 0; c < s.c; c++) slopes[c] = scale[c] * inverse[c];
    T below = s.slope;
    windows<SIDE>(s, [&](long result, long place) {
        channels<T>(s.c, [&](long c, auto at) {
            const T* q = z + place * s.c + c;
            V<T> m = at.load(mean + c), k = at.load(slopes.get() + c), b = at.load(shift + c);
            V<T> d = at.load(q) - m, best = d * k + b, picks = d;
            I<T> code = {};
#pragma GCC unroll 4
            for (int i = 1; i < SIDE * SIDE; i++) {
                V<T> other = at.load(q + corners.at[i]) - m, value = other * k + b;
                I<T> larger = (value > best) | (value != value);  // what is no number stays, as in torch
                best = larger ? value : best, picks = larger ? other : picks, code = larger ? I<T>{} + i : code;
            }
            I<T> off = best <= 0;
            long o = result * s.c + c;
            at.store(y + o, off ? (below == 0 ? V<T>{} : below * best) : best);
            if (codes) {
                at.template store_codes<T>(codes + o, code | (off & OFF));
                at.store(picked + o, picks * at.load(inverse + c));
            }
        });
    });
}

// dy times the activation's slope
template <class T> inline V<T> through(V<T> dy, I<T> code, T slope) {
    return (code >= OFF) ? (slope == 0 ? V<T>{} : slope * dy) : dy;
}

// out = a * (dy at what was picked, through the activation) + q + d * (z - mean) [+ e * u]
template <class T, int SIDE>
void spread(const Tail& s, const T* z, const T* u, const T* dy, const std::uint8_t* codes, const T* mean, const T* a,
            const T* q, const T* d, const T* e, T* out) {
    Corners<T, SIDE> corners(s);
    T slope = s.slope;
    auto linear = [&](auto at, long p, long c) {
        V<T> value = at.load(q + c) + (at.load(z + p) - at.load(mean + c)) * at.load(d + c);
        return u ? value + at.load(u + p) * at.load(e + c) : value;
    };
    windows<SIDE>(s, [&](long result, long place) {
        channels<T>(s.c, [&](long c, auto at) {
            I<T> code = at.template load_codes<T>(codes + result * s.c + c);
            V<T> from = through<T>(at.load(dy + result * s.c + c), code, slope) * at.load(a + c);
            code &= OFF - 1;
            long p = place * s.c + c;
#pragma GCC unroll 4
            for (int i = 0; i < SIDE * SIDE; i++) {
                V<T> value = linear(at, p + corners.at[i], c);
                at.store(out + p + corners.at[i], value + (code == i ? from : V<T>{}));
            }
        });
    });
    beyond<SIDE>(s, [&](long place) {
        channels<T>(s.c, [&](long c, auto at) { at.store(out + place * s.c + c, linear(at, place * s.c + c, c)); });
    });
}

// For dy the gradients of shift and scale, and that of z unless it is null
template <class T, int SIDE>
void tail_back(const Tail& s, bool own, const T* dy, const T* z, const T* scale, const std::uint8_t* codes,
               const T* picked, const T* mean, const T* inverse, T* of_shift, T* of_scale, T* dz) {
    T slope = s.slope;
    auto totals = std::make_unique<double[]>(2 * s.c);
    sums<2, T>(s.results(), s.c, totals.get(), [&](auto at, long p, long c, V<T>* acc) {
        long o = p * s.c + c;
        V<T> d = through<T>(at.load(dy + o), at.template load_codes<T>(codes + o), slope);
        acc[0] += d, acc[1] += d * at.load(picked + o);
    });
    for (long c = 0; c < s.c; c++) of_shift[c] = totals[c], of_scale[c] = totals[s.c + c];
    if (!dz) return;
    std::vector<T> a(s.c), q(s.c), d(s.c);
    double share = own ? 1.0 / s.places() : 0;
    for (long c = 0; c < s.c; c++) {
        double k = double(scale[c]) * inverse[c];
        a[c] = k, q[c] = -k * totals[c] * share, d[c] = -k * totals[s.c + c] * share * inverse[c];
    }
    spread<T, SIDE>(s, z, nullptr, dy, codes, mean, a.data(), q.data(), d.data(), nullptr, dz);
}

// For cotangents u of dz, us of the scale's gradient and ut of the shift's (null: 0): the gradients of dy, z and scale.
// With r = inverse * (u - mean(u) - z_hat * mean(u z_hat)) at what was picked and s = dy through the activation:
//   of dy     act' * (scale * r + us * z_hat + ut)
//   of scale  sum of s * r
//   of z      k * (s - mean(s) - z_hat * mean(s z_hat)) - scale * (of scale / places) * inverse * z_hat
//             - scale * inverse * mean(s z_hat) * r,   k = inverse * (us - scale * inverse * mean(u z_hat))
template <class T, int SIDE>
void tail_twice(const Tail& s, bool own, const T* u, const T* us, const T* ut, const T* dy, const T* z, const T* scale,
                const std::uint8_t* codes, const T* picked, const T* mean, const T* inverse, const T* dshift,
                const T* dscale, T* of_dy, T* of_z, T* of_scale) {
    Corners<T, SIDE> corners(s);
    T slope = s.slope;
    double share = own ? 1.0 / s.places() : 0;
    std::vector<T> middle(s.c), tilt(s.c), a(s.c), q(s.c), d(s.c), e(s.c), none(s.c), rows(s.c);
    std::vector<double> total(3 * s.c);
    double *level = total.data(), *lean = level + s.c, *found = lean + s.c;
    if (own && u)
        sums<2, T>(s.places(), s.c, level, [&](auto at, long p, long c, V<T>* acc) {
            V<T> value = at.load(u + p * s.c + c);
            acc[0] += value, acc[1] += value * (at.load(z + p * s.c + c) - at.load(mean + c));
        });
    for (long c = 0; c < s.c; c++) {
        level[c] *= share, lean[c] *= share * inverse[c];
        middle[c] = level[c], tilt[c] = lean[c];
    }
    const T *factor = us ? us : none.data(), *added = ut ? ut : none.data();
    long inside = 0;
    auto settle = [&] {
        for (long c = 0; c < s.c; c++) found[c] += rows[c], rows[c] = 0;
    };
    windows<SIDE>(s, [&](long result, long place) {
        channels<T>(s.c, [&](long c, auto at) {
            long o = result * s.c + c;
            I<T> code = at.template load_codes<T>(codes + o), which = code & (OFF - 1);
            V<T> hat = at.load(picked + o), r = {};
            if (u) {
                const T* p = u + place * s.c + c;
                r = at.load(p);
#pragma GCC unroll 4
                for (int i = 1; i < SIDE * SIDE; i++) r = which == i ? at.load(p + corners.at[i]) : r;
                r = (r - at.load(middle.data() + c) - hat * at.load(tilt.data() + c)) * at.load(inverse + c);
            }
            V<T> through_dy = through<T>(at.load(dy + o), code, slope);
            at.store(rows.data() + c, at.load(rows.data() + c) + through_dy * r);
            V<T> back = at.load(scale + c) * r + at.load(factor + c) * hat + at.load(added + c);
            at.store(of_dy + o, through<T>(back, code, slope));
        });
        if (++inside % BLOCK == 0) settle();
    });
    settle();
    for (long c = 0; c < s.c; c++) {
        double g = scale[c], i = inverse[c], mean_s = dshift[c] * share, mean_sz = dscale[c] * share;
        double k = (factor[c] - g * i * lean[c]) * i;
        of_scale[c] = found[c];
        a[c] = k, e[c] = -g * i * i * mean_sz;
        q[c] = -k * mean_s - e[c] * level[c];
        d[c] = (-k * mean_sz - g * found[c] * i * share - e[c] * lean[c]) * i;
    }
    spread<T, SIDE>(s, z, u, dy, codes, mean, a.data(), q.data(), d.data(), e.data(), of_z);
}

}  // namespace raymeta
